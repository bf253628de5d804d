import java.util.Properties;
import java.util.concurrent.ExecutionException;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;

/**
 * A producer that stays in a transaction for longer than it may: says with which exception it meets
 * that, then aborts what it has lost and commits another transaction.
 */
final class Late {
    public static void main(String[] words) throws InterruptedException {
        String server = words[0], topic = words[1];
        Properties settings = Settings.producer(server, "late");
        settings.put("transaction.timeout.ms", "1000");
        KafkaProducer<String, String> producer = new KafkaProducer<>(settings);
        producer.initTransactions();
        producer.beginTransaction();
        try {
            while (true) {
                producer.send(new ProducerRecord<>(topic, 0, "k", "too late")).get();
            }
        } catch (ExecutionException late) {
            Said.say("late", Said.why(late.getCause()));
        }
        producer.abortTransaction();
        producer.beginTransaction();
        producer.send(new ProducerRecord<>(topic, 0, "k", "in time"));
        producer.commitTransaction();
        producer.close();
        Said.say("done");
    }
}
