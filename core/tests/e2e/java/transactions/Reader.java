import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.TopicPartition;

/** Says every committed record of a topic: {@code partition offset value}, up to the last stable offsets. */
final class Reader {
    public static void main(String[] words) {
        try (KafkaConsumer<String, String> consumer = new KafkaConsumer<>(Settings.consumer(words[0]))) {
            List<TopicPartition> partitions = consumer.partitionsFor(words[1]).stream()
                    .map(found -> new TopicPartition(words[1], found.partition()))
                    .collect(Collectors.toList());
            consumer.assign(partitions);
            consumer.seekToBeginning(partitions);
            Map<TopicPartition, Long> ends = consumer.endOffsets(partitions);
            while (ends.entrySet().stream().anyMatch(end -> consumer.position(end.getKey()) < end.getValue())) {
                for (ConsumerRecord<String, String> record : consumer.poll(Duration.ofMillis(200))) {
                    Said.say(record.partition(), record.offset(), record.value());
                }
            }
        }
        Said.say("done");
    }
}
