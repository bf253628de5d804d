import java.util.Random;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.errors.ProducerFencedException;
import org.apache.kafka.common.errors.TimeoutException;

/**
 * Writes numbered transactions and says how each ended. Every record is {@code number.attempt.place}.
 *
 * <p>A transaction that was aborted, by choice or because something failed, is attempted again until
 * it is committed. The outcome is always known, unless this program is killed.
 */
final class Writer {
    public static void main(String[] words) {
        String server = words[0], topic = words[1], id = words[2];
        int first = Integer.parseInt(words[3]), end = Integer.parseInt(words[4]);
        int partitions = Integer.parseInt(words[5]), records = Integer.parseInt(words[6]);
        Random random = new Random(Long.parseLong(words[7]));
        try (KafkaProducer<String, String> producer = new KafkaProducer<>(Settings.producer(server, id))) {
            producer.initTransactions();
            Said.say("ready");
            for (int number = first; number < end; number++) {
                for (int attempt = 0; ; attempt++) {
                    boolean abort = attempt == 0 && random.nextInt(4) == 0;
                    String name = number + "." + attempt;
                    if (transaction(producer, topic, name, number, partitions, records, abort)) {
                        break;
                    }
                }
            }
        }
        Said.say("done");
    }

    /** Whether it was committed; false if it was aborted. */
    private static boolean transaction(KafkaProducer<String, String> producer, String topic, String name,
            int number, int partitions, int records, boolean abort) {
        Said.say("begun", name);
        try {
            producer.beginTransaction();
            for (int place = 0; place < records; place++) {
                int partition = (number + place) % partitions;
                producer.send(new ProducerRecord<>(topic, partition, name, name + "." + place));
            }
            if (!abort) {
                commit(producer);
                Said.say("committed", name);
                return true;
            }
            producer.flush();
        } catch (ProducerFencedException fenced) {
            throw fenced;
        } catch (KafkaException failed) {
            Said.say("failed", name, Said.why(failed));
        }
        producer.abortTransaction();
        Said.say("aborted", name);
        return false;
    }

    /** A commit that was not answered in time is asked for again: the broker knows what it decided. */
    private static void commit(KafkaProducer<String, String> producer) {
        for (int left = 3; ; left--) {
            try {
                producer.commitTransaction();
                return;
            } catch (TimeoutException slow) {
                if (left == 0) {
                    throw slow;
                }
            }
        }
    }
}
