package tokenbroker.client;

/**
 * Text of others, as it may be shown: on one line, and with nothing in it that steers a terminal, hides, or turns the direction
 * of writing.
 *
 * <p>Must never change what is plain, nor leave anything out: the rest is shown by its number.
 */
final class Plain {
    private Plain() {}

    static String onOneLine(String text) {
        if (text.codePoints().allMatch(Plain::isPlain)) {
            return text;
        }
        var line = new StringBuilder(2 * text.length());
        text.codePoints().forEach(point -> {
            if (isPlain(point)) {
                line.appendCodePoint(point);
            } else {
                for (char unit : Character.toChars(point)) {
                    line.append(String.format("\\u%04x", (int) unit));
                }
            }
        });
        return line.toString();
    }

    private static boolean isPlain(int point) {
        switch (Character.getType(point)) {
            case Character.CONTROL:
            case Character.FORMAT:
            case Character.LINE_SEPARATOR:
            case Character.PARAGRAPH_SEPARATOR:
            case Character.PRIVATE_USE:
            case Character.SURROGATE:
            case Character.UNASSIGNED:
                return false;
            case Character.SPACE_SEPARATOR:
                return point == ' ';
            default:
                return true;
        }
    }
}
