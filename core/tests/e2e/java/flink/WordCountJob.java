import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.functions.RichMapFunction;
import org.apache.flink.api.common.serialization.SerializationSchema;
import org.apache.flink.api.common.serialization.SimpleStringSchema;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.configuration.GlobalConfiguration;
import org.apache.flink.configuration.RestOptions;
import org.apache.flink.connector.base.DeliveryGuarantee;
import org.apache.flink.connector.kafka.sink.KafkaRecordSerializationSchema;
import org.apache.flink.connector.kafka.sink.KafkaSink;
import org.apache.flink.connector.kafka.sink.TransactionNamingStrategy;
import org.apache.flink.connector.kafka.source.KafkaSource;
import org.apache.flink.connector.kafka.source.enumerator.initializer.OffsetsInitializer;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;

/**
 * Hands a job to a cluster of Flink and says its id: lines from one topic, their words counted in
 * Flink's state, each count written to another topic in Kafka's transactions, one a checkpoint.
 */
public final class WordCountJob {
    public static void main(String[] words) throws Exception {
        String server = words[1], from = words[2], to = words[3], naming = words[4];
        // How often there are checkpoints, and what becomes of a job that fails, is the job's own.
        Configuration settings = GlobalConfiguration.loadConfiguration(words[0]);
        if (words.length == 6) {
            settings.setString("execution.state-recovery.path", words[5]);
        }
        StreamExecutionEnvironment job =
                StreamExecutionEnvironment.createRemoteEnvironment(
                        "127.0.0.1", settings.get(RestOptions.PORT), settings);
        job.setParallelism(2);
        KafkaSource<String> lines = KafkaSource.<String>builder()
                .setBootstrapServers(server).setTopics(from).setGroupId("flink")
                .setStartingOffsets(OffsetsInitializer.earliest())
                .setProperty("reconnect.backoff.max.ms", "200")
                .setValueOnlyDeserializer(new SimpleStringSchema()).build();
        KafkaSink<String> counts = KafkaSink.<String>builder()
                .setBootstrapServers(server)
                .setDeliveryGuarantee(DeliveryGuarantee.EXACTLY_ONCE)
                .setTransactionalIdPrefix("flink")
                .setTransactionNamingStrategy(TransactionNamingStrategy.valueOf(naming))
                .setProperty("transaction.timeout.ms", "120000")
                .setProperty("reconnect.backoff.max.ms", "200")
                .setRecordSerializer(KafkaRecordSerializationSchema.<String>builder().setTopic(to)
                        .setKeySerializationSchema(new Part(0))
                        .setValueSerializationSchema(new Part(1))
                        .build())
                .build();
        job.fromSource(lines, WatermarkStrategy.noWatermarks(), "lines").uid("lines")
                .<String>flatMap((line, found) -> {
                    for (String word : line.split(" ")) {
                        found.collect(word);
                    }
                }).returns(Types.STRING)
                .keyBy(word -> word)
                .map(new Counting()).uid("counts")
                .sinkTo(counts).uid("sink");
        System.out.println("job " + job.executeAsync("word count").getJobID());
        System.out.println("done");
        System.out.flush();
        System.exit(0);
    }

    /** The word of a count, or its number. */
    static final class Part implements SerializationSchema<String> {
        private final int place;

        Part(int place) {
            this.place = place;
        }

        @Override
        public byte[] serialize(String count) {
            return count.split(" ")[place].getBytes(java.nio.charset.StandardCharsets.UTF_8);
        }
    }

    /** How often each word was seen so far. */
    static final class Counting extends RichMapFunction<String, String> {
        private transient ValueState<Long> seen;

        @Override
        public void open(OpenContext opened) {
            seen = getRuntimeContext().getState(new ValueStateDescriptor<>("seen", Types.LONG));
        }

        @Override
        public String map(String word) throws Exception {
            Long before = seen.value();
            long now = before == null ? 1 : before + 1;
            seen.update(now);
            return word + " " + now;
        }
    }
}
