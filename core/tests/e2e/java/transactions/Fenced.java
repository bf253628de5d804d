import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.errors.ProducerFencedException;

/**
 * Two producers of one transactional id, the second of which replaces the first: says with which
 * exceptions the first one ends its transaction and then itself.
 */
final class Fenced {
    public static void main(String[] words) {
        String server = words[0], topic = words[1];
        KafkaProducer<String, String> first = new KafkaProducer<>(Settings.producer(server, "twice"));
        first.initTransactions();
        first.beginTransaction();
        first.send(new ProducerRecord<>(topic, 0, "k", "first, open"));
        first.flush();
        KafkaProducer<String, String> second = new KafkaProducer<>(Settings.producer(server, "twice"));
        second.initTransactions();
        second.beginTransaction();
        second.send(new ProducerRecord<>(topic, 0, "k", "second, committed"));
        try {
            first.send(new ProducerRecord<>(topic, 0, "k", "first, after it was replaced"));
            first.commitTransaction();
            Said.say("the first one was not fenced");
        } catch (KafkaException fenced) {
            Said.say("fenced", Said.why(fenced));
        }
        second.commitTransaction();
        try {
            first.abortTransaction();
            first.beginTransaction();
            first.commitTransaction();
            Said.say("the first one goes on");
        } catch (ProducerFencedException fenced) {
            Said.say("refused", Said.why(fenced));
        }
        first.close(java.time.Duration.ZERO);
        second.close();
        Said.say("done");
    }
}
