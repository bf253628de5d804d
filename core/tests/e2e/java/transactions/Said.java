/** The one way in which these programs talk to the check that runs them: a line of words, at once. */
final class Said {
    private Said() {}

    static synchronized void say(Object... words) {
        StringBuilder line = new StringBuilder();
        for (Object word : words) {
            line.append(line.length() == 0 ? "" : " ").append(word);
        }
        System.out.println(line);
        System.out.flush();
    }

    /** The cause in one line. */
    static String why(Throwable error) {
        return error.getClass().getSimpleName() + ": " + String.valueOf(error.getMessage()).replace('\n', ' ');
    }

    /** Runs {@code then} when the check says something, or has ended. */
    static void onTold(Runnable then) {
        Thread listening = new Thread(() -> {
            try {
                System.in.read();
            } catch (java.io.IOException closed) {
                // The check has ended: the same as a word from it.
            }
            then.run();
        });
        listening.setDaemon(true);
        listening.start();
    }
}
