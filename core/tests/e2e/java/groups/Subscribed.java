import java.time.Duration;
import java.util.List;
import java.util.Properties;
import java.util.regex.Pattern;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.RemoveMembersFromConsumerGroupOptions;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.SubscriptionPattern;

/**
 * A member of the newer protocol that says by a pattern what it reads, one of its own ({@code client}) or one
 * that the broker looks for ({@code broker}): says {@code read COUNT} once it has read so much, then that an
 * operator has taken it out of its group and how many are left: {@code removed COUNT}.
 */
final class Subscribed {
    public static void main(String[] words) throws Exception {
        String server = words[0], group = words[1], whose = words[2], pattern = words[3];
        int wanted = Integer.parseInt(words[4]);
        String text = "org.apache.kafka.common.serialization.StringDeserializer";
        Properties settings = new Properties();
        settings.put("bootstrap.servers", server);
        settings.put("group.id", group);
        settings.put("group.protocol", "consumer");
        settings.put("group.instance.id", "of-" + group);
        settings.put("auto.offset.reset", "earliest");
        settings.put("key.deserializer", text);
        settings.put("value.deserializer", text);
        KafkaConsumer<String, String> consumer = new KafkaConsumer<>(settings);
        if (whose.equals("client")) {
            consumer.subscribe(Pattern.compile(pattern));
        } else {
            consumer.subscribe(new SubscriptionPattern(pattern));
        }
        int read = 0;
        while (read < wanted) {
            read += consumer.poll(Duration.ofMillis(100)).count();
        }
        System.out.println("read " + read);
        try (Admin admin = Admin.create(settings)) {
            admin.removeMembersFromConsumerGroup(group, new RemoveMembersFromConsumerGroupOptions()).all().get();
            var groups = admin.describeConsumerGroups(List.of(group)).all().get();
            System.out.println("removed " + groups.get(group).members().size());
        }
        System.out.println("done");
        System.exit(0);
    }
}
