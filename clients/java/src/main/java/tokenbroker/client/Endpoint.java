package tokenbroker.client;

import java.util.regex.Pattern;

/**
 * Pure: where a broker is, as {@code http://host:port} or {@code https://host:port}.
 *
 * <p>Must never take a port that can't be for none, which would be another.
 */
final class Endpoint {
    private static final Pattern FORM =
        Pattern.compile("(?i)(https?)://(\\[[0-9a-f:.]+(?:%[\\w.-]+)?]|[\\w.-]*\\w\\.?)(?::([^/?#]*))?/?");
    private static final int PORT_MAX = 65_535;
    private static final int HTTP = 80;
    private static final int HTTPS = 443;

    final boolean isTls;
    /** Without the brackets of an address of IPv6. */
    final String host;
    final int port;

    private Endpoint(boolean isTls, String host, int port) {
        this.isTls = isTls;
        this.host = host;
        this.port = port;
    }

    static Endpoint parse(String text) {
        var parts = FORM.matcher(text == null ? "" : text);
        if (!parts.matches()) {
            throw new IllegalArgumentException("endpoint: \"" + Plain.onOneLine(String.valueOf(text))
                + "\" is not a URL such as http://127.0.0.1:50051 or https://token-broker:50051: give scheme, host and port"
                + " alone");
        }
        boolean isTls = parts.group(1).equalsIgnoreCase("https");
        var host = parts.group(2).startsWith("[") ? parts.group(2).substring(1, parts.group(2).length() - 1) : parts.group(2);
        return new Endpoint(isTls, host, port(text, parts.group(3), isTls));
    }

    private static int port(String text, String port, boolean isTls) {
        if (port == null || port.isEmpty()) {
            return isTls ? HTTPS : HTTP;
        }
        int number = port.matches("[0-9]{1,5}") ? Integer.parseInt(port) : 0;
        if (number < 1 || number > PORT_MAX) {
            throw new IllegalArgumentException(
                "endpoint: \"" + Plain.onOneLine(text) + "\" has a port that can't be: it is a number, 1 to 65535");
        }
        return number;
    }

    /** What the broker's certificate must be for, with the port: without the dot that ends a full name. */
    String authority() {
        var name = host.endsWith(".") ? host.substring(0, host.length() - 1) : host;
        return (name.contains(":") ? "[" + name + "]" : name) + ":" + port;
    }

    /** As part of a channel's target, from which {@link #parse} has it again. */
    @Override
    public String toString() {
        return (isTls ? "https://" : "http://") + (host.contains(":") ? "[" + host + "]" : host) + ":" + port;
    }
}
