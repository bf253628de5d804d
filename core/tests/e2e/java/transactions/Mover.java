import java.time.Duration;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Random;
import java.util.concurrent.atomic.AtomicBoolean;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.ProducerFencedException;

/**
 * A member of a group that reads what is committed in one topic and writes it to another, each poll
 * in a transaction together with the group's offsets; some it aborts by choice. It goes on until it
 * is told to stop, and whatever fails, it takes up again at the offsets that are committed.
 */
final class Mover {
    private final KafkaConsumer<String, String> consumer;
    private final KafkaProducer<String, String> producer;
    private final String to;
    private final Random random;

    private Mover(String[] words) {
        Properties reading = Settings.consumer(words[0]);
        reading.put("group.id", words[3]);
        reading.put("group.protocol", words[5]);
        reading.put("max.poll.records", "40");
        if (words[5].equals("classic")) {
            reading.put("session.timeout.ms", "10000");
            reading.put("heartbeat.interval.ms", "1000");
        }
        consumer = new KafkaConsumer<>(reading);
        producer = new KafkaProducer<>(Settings.producer(words[0], words[4]));
        to = words[2];
        random = new Random(Long.parseLong(words[6]));
        consumer.subscribe(List.of(words[1]));
    }

    public static void main(String[] words) {
        AtomicBoolean stopped = new AtomicBoolean();
        Said.onTold(() -> stopped.set(true));
        Mover mover = new Mover(words);
        mover.producer.initTransactions();
        Said.say("ready");
        while (!stopped.get()) {
            ConsumerRecords<String, String> records = mover.consumer.poll(Duration.ofMillis(200));
            if (!records.isEmpty()) {
                mover.move(records);
            }
        }
        mover.consumer.close();
        mover.producer.close();
        Said.say("done");
    }

    private void move(ConsumerRecords<String, String> records) {
        try {
            producer.beginTransaction();
            Map<TopicPartition, OffsetAndMetadata> offsets = new HashMap<>();
            for (ConsumerRecord<String, String> record : records) {
                producer.send(new ProducerRecord<>(to, record.partition(), record.key(), record.value()));
                offsets.put(new TopicPartition(record.topic(), record.partition()),
                        new OffsetAndMetadata(record.offset() + 1));
            }
            producer.sendOffsetsToTransaction(offsets, consumer.groupMetadata());
            if (random.nextInt(5) != 0) {
                producer.commitTransaction();
                Said.say("moved", records.count());
                return;
            }
        } catch (ProducerFencedException fenced) {
            throw fenced;
        } catch (KafkaException failed) {
            Said.say("failed", Said.why(failed));
        }
        producer.abortTransaction();
        Said.say("aborted", records.count());
        rewind(records.partitions());
    }

    /** Nothing of an aborted transaction has happened: its records are read again. */
    private void rewind(Collection<TopicPartition> read) {
        consumer.committed(new java.util.HashSet<>(read)).forEach((partition, committed) -> {
            // What was taken away meanwhile is read by whom it was given to.
            if (!consumer.assignment().contains(partition)) {
                return;
            }
            if (committed == null) {
                consumer.seekToBeginning(List.of(partition));
            } else {
                consumer.seek(partition, committed.offset());
            }
        });
    }
}
