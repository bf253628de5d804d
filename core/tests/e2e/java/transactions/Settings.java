import java.util.Properties;

/** What the clients of these programs have in common. */
final class Settings {
    private Settings() {}

    static Properties producer(String server, String id) {
        Properties settings = common(server);
        settings.put("transactional.id", id);
        settings.put("key.serializer", "org.apache.kafka.common.serialization.StringSerializer");
        settings.put("value.serializer", "org.apache.kafka.common.serialization.StringSerializer");
        // A kill costs a second or two, never this long; a broker that stays away ends the check.
        settings.put("max.block.ms", "60000");
        settings.put("delivery.timeout.ms", "60000");
        settings.put("request.timeout.ms", "10000");
        settings.put("transaction.timeout.ms", "30000");
        return settings;
    }

    static Properties consumer(String server) {
        Properties settings = common(server);
        settings.put("key.deserializer", "org.apache.kafka.common.serialization.StringDeserializer");
        settings.put("value.deserializer", "org.apache.kafka.common.serialization.StringDeserializer");
        settings.put("isolation.level", "read_committed");
        settings.put("enable.auto.commit", "false");
        settings.put("auto.offset.reset", "earliest");
        return settings;
    }

    private static Properties common(String server) {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", server);
        settings.put("reconnect.backoff.ms", "20");
        settings.put("reconnect.backoff.max.ms", "200");
        settings.put("retry.backoff.ms", "20");
        return settings;
    }
}
