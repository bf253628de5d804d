import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.explode;
import static org.apache.spark.sql.functions.split;

import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.streaming.StreamingQuery;
import org.apache.spark.sql.streaming.StreamingQueryException;
import org.apache.spark.sql.streaming.StreamingQueryListener;
import org.apache.spark.sql.streaming.Trigger;

/**
 * Counts words with Structured Streaming: lines from one topic, the counts that a micro-batch has
 * changed to another. Where it is lies in a checkpoint. It says each batch, starts the query again
 * when it fails, and ends when it is told to.
 */
public final class WordCountQuery {
    public static void main(String[] words) throws Exception {
        String server = words[0], from = words[1], to = words[2], kept = words[3];
        SparkSession spark = SparkSession.builder().appName("word count").master("local[2]")
                .config("spark.ui.enabled", "false")
                .config("spark.driver.host", "127.0.0.1")
                .config("spark.driver.bindAddress", "127.0.0.1")
                .config("spark.local.dir", kept + "/scratch")
                .config("spark.sql.warehouse.dir", kept + "/warehouse")
                .config("spark.sql.shuffle.partitions", "2")
                .getOrCreate();
        spark.streams().addListener(new Batches());
        Thread.currentThread().setName("query");
        boolean[] told = {false};
        Thread listening = new Thread(() -> {
            try {
                System.in.read();
            } catch (java.io.IOException closed) {
                // The check has ended: the same as a word from it.
            }
            told[0] = true;
            for (StreamingQuery query : spark.streams().active()) {
                try {
                    query.stop();
                } catch (java.util.concurrent.TimeoutException slow) {
                    say("failed", slow);
                }
            }
        });
        listening.setDaemon(true);
        listening.start();
        while (!told[0]) {
            try {
                start(spark, server, from, to, kept).awaitTermination();
            } catch (StreamingQueryException failed) {
                say("failed", failed.getCause());
            }
        }
        spark.stop();
        say("done", "");
    }

    private static StreamingQuery start(SparkSession spark, String server, String from, String to,
            String kept) throws java.util.concurrent.TimeoutException {
        Dataset<Row> lines = spark.readStream().format("kafka")
                .option("kafka.bootstrap.servers", server)
                .option("kafka.reconnect.backoff.max.ms", "200")
                .option("kafka.isolation.level", "read_committed")
                .option("subscribe", from)
                .option("startingOffsets", "earliest")
                .load();
        return lines.select(explode(split(col("value").cast("string"), " ")).as("word"))
                .groupBy("word").count()
                .select(col("word").as("key"), col("count").cast("string").as("value"))
                .writeStream().format("kafka")
                .option("kafka.bootstrap.servers", server)
                .option("kafka.reconnect.backoff.max.ms", "200")
                .option("topic", to)
                .option("checkpointLocation", kept + "/checkpoint")
                .outputMode("update")
                .trigger(Trigger.ProcessingTime(500))
                .start();
    }

    private static synchronized void say(String word, Object rest) {
        System.out.println(word + " " + String.valueOf(rest).replace('\n', ' '));
        System.out.flush();
    }

    /** Says the number of each batch that had records, and how many. */
    private static final class Batches extends StreamingQueryListener {
        @Override
        public void onQueryStarted(QueryStartedEvent event) {
            say("started", event.runId());
        }

        @Override
        public void onQueryProgress(QueryProgressEvent event) {
            if (0 < event.progress().numInputRows()) {
                say("batch", event.progress().batchId() + " " + event.progress().numInputRows());
            }
        }

        @Override
        public void onQueryTerminated(QueryTerminatedEvent event) {}
    }
}
