import java.nio.file.Path;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.KStream;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;

/**
 * Counts words, exactly once. Lines come from one topic; their words go through a repartition topic to
 * the tasks that count them, in stores that are kept in a changelog; each new count is written out.
 *
 * <p>It says what state it is in, and ends when it is told to.
 */
final class WordCount {
    public static void main(String[] words) throws Exception {
        String server = words[0], from = words[1], to = words[2];
        KafkaStreams streams = new KafkaStreams(counting(from, to), settings(server, Path.of(words[3])));
        streams.setStateListener((now, before) -> say("state", now));
        // What Streams calls unexpected is said, and the thread is replaced as applications do it.
        streams.setUncaughtExceptionHandler(error -> {
            Throwable cause = error.getCause() == null ? error : error.getCause();
            say("replaced", error + " because of " + cause);
            return StreamThreadExceptionResponse.REPLACE_THREAD;
        });
        streams.start();
        System.in.read();
        streams.close(java.time.Duration.ofSeconds(60));
        say("done", "");
    }

    private static org.apache.kafka.streams.Topology counting(String from, String to) {
        StreamsBuilder builder = new StreamsBuilder();
        KStream<String, String> lines =
                builder.stream(from, Consumed.with(Serdes.String(), Serdes.String()));
        lines.flatMapValues(line -> java.util.List.of(line.split(" ")))
                .groupBy((key, word) -> word, Grouped.with("words", Serdes.String(), Serdes.String()))
                .count(Materialized.<String, Long>as(
                                org.apache.kafka.streams.state.Stores.inMemoryKeyValueStore("counts"))
                        .withKeySerde(Serdes.String()).withValueSerde(Serdes.Long()))
                .toStream()
                .mapValues(String::valueOf)
                .to(to, Produced.with(Serdes.String(), Serdes.String()));
        return builder.build();
    }

    private static Properties settings(String server, Path state) {
        Properties settings = new Properties();
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, "word-count");
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, server);
        settings.put(StreamsConfig.STATE_DIR_CONFIG, state.toString());
        settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        settings.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, 200);
        settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 2);
        // What was read of the repartition topic is deleted (DeleteRecords) soon.
        settings.put(StreamsConfig.REPARTITION_PURGE_INTERVAL_MS_CONFIG, 1000);
        // Every count is written out: what is counted twice, or not, shows in each of them.
        settings.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, 0);
        settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");
        settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.SESSION_TIMEOUT_MS_CONFIG), 10000);
        settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.HEARTBEAT_INTERVAL_MS_CONFIG), 1000);
        settings.put(StreamsConfig.producerPrefix(ProducerConfig.TRANSACTION_TIMEOUT_CONFIG), 10000);
        settings.put("reconnect.backoff.max.ms", "200");
        return settings;
    }

    private static synchronized void say(String word, Object rest) {
        System.out.println(word + " " + String.valueOf(rest).replace('\n', ' '));
        System.out.flush();
    }
}
