import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Properties;
import org.apache.kafka.clients.consumer.AcknowledgeType;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaShareConsumer;
import org.apache.kafka.common.KafkaException;

/**
 * A member of a share group that does what it is told, a line each, and says what came of it.
 *
 * <p>{@code poll MS} says {@code record OFFSET DELIVERIES VALUE} for what it is given until something comes
 * or the time is over, then {@code polled COUNT}. {@code accept|release|reject|renew OFFSET} is said of a
 * record of the last poll; {@code commit} sends what was said, and says {@code committed} with {@code ok} or
 * the error. What cannot be done is {@code refused WHY}. The end of the input is a good end.
 */
final class Member {
    /** What it was given last, by offset. */
    private final Map<Long, ConsumerRecord<String, String>> given = new HashMap<>();
    private final KafkaShareConsumer<String, String> consumer;

    private Member(String server, String group, String topic) {
        consumer = new KafkaShareConsumer<>(settings(server, group));
        consumer.subscribe(List.of(topic));
    }

    public static void main(String[] words) throws Exception {
        Member member = new Member(words[0], words[1], words[2]);
        try (BufferedReader told = new BufferedReader(new InputStreamReader(System.in))) {
            for (String line = told.readLine(); line != null; line = told.readLine()) {
                try {
                    member.does(line.trim().split(" "));
                } catch (IllegalStateException | KafkaException refused) {
                    say("refused " + refused);
                }
            }
        }
        member.consumer.close();
        say("done");
    }

    private void does(String[] words) {
        switch (words[0]) {
            case "poll" -> poll(Long.parseLong(words[1]));
            case "commit" -> commit();
            default -> {
                AcknowledgeType type = AcknowledgeType.valueOf(words[0].toUpperCase());
                consumer.acknowledge(given.get(Long.parseLong(words[1])), type);
                say("told");
            }
        }
    }

    private void poll(long patienceMs) {
        long end = System.nanoTime() + patienceMs * 1_000_000;
        ConsumerRecords<String, String> records;
        do {
            records = consumer.poll(Duration.ofMillis(200));
        } while (records.isEmpty() && System.nanoTime() < end);
        given.clear();
        for (ConsumerRecord<String, String> record : records) {
            given.put(record.offset(), record);
            say("record " + record.offset() + " " + record.deliveryCount().orElse((short) 0) + " "
                    + record.value());
        }
        say("polled " + records.count());
    }

    private void commit() {
        String error = "ok";
        for (Optional<KafkaException> failed : consumer.commitSync().values()) {
            error = failed.map(found -> found.getClass().getSimpleName()).orElse(error);
        }
        say("committed " + error);
    }

    private static Properties settings(String server, String group) {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", server);
        settings.put("group.id", group);
        settings.put("share.acknowledgement.mode", "explicit");
        settings.put("key.deserializer", "org.apache.kafka.common.serialization.StringDeserializer");
        settings.put("value.deserializer", "org.apache.kafka.common.serialization.StringDeserializer");
        settings.put("fetch.max.wait.ms", "100");
        return settings;
    }

    private static void say(String line) {
        System.out.println(line);
        System.out.flush();
    }
}
