import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.KafkaException;

/** Keeps a transaction open until it is told something, then commits it and says what came of it. */
final class Holder {
    public static void main(String[] words) throws Exception {
        try (KafkaProducer<String, String> producer = new KafkaProducer<>(Settings.producer(words[0], words[2]))) {
            producer.initTransactions();
            producer.beginTransaction();
            for (int number = 0; number < 3; number++) {
                producer.send(new ProducerRecord<>(words[1], 0, "k", words[2] + " " + number));
            }
            producer.flush();
            Said.say("held");
            System.in.read();
            try {
                producer.commitTransaction();
                Said.say("committed");
            } catch (KafkaException failed) {
                Said.say("failed", Said.why(failed));
            }
        }
    }
}
