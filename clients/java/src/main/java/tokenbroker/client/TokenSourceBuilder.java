package tokenbroker.client;

import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;

/**
 * What a source is told: its brokers, and how each side knows the other.
 *
 * <p>Must never read a file: each is read when it is needed, and again as it is replaced; nor have a token or a certificate go
 * with plaintext.
 */
public final class TokenSourceBuilder {
    /** Covers a sign-in, and then some. */
    static final Duration DEFAULT_TIMEOUT = Duration.ofSeconds(30);
    /** No call takes longer: the broker's. */
    static final Duration TIMEOUT_MAX = Duration.ofMinutes(10);

    private final List<String> endpoints = new ArrayList<>();
    private Path caFile;
    private Path tokenFile;
    private Path certificateFile;
    private Path keyFile;
    private Duration timeout = DEFAULT_TIMEOUT;
    private boolean useProxy;

    TokenSourceBuilder() {}

    /**
     * Adds a broker, such as {@code http://127.0.0.1:50051}, or a name of several, which is looked up again and again, such as
     * {@code https://token-broker-headless.cards.svc:50051}. At least one; all over TLS, or none.
     */
    public TokenSourceBuilder endpoint(String endpoint) {
        endpoints.add(endpoint);
        return this;
    }

    /** The CA of the brokers' certificates, in PEM: needed for {@code https://}. */
    public TokenSourceBuilder caFile(Path file) {
        caFile = file;
        return this;
    }

    /** A service account's token, as Kubernetes projects it: how the broker knows us. It is read for each call. */
    public TokenSourceBuilder tokenFile(Path file) {
        tokenFile = file;
        return this;
    }

    /**
     * Instead of a token: our certificate with those that lead to its CA, and its key, both in PEM; one file may stand for
     * both.
     */
    public TokenSourceBuilder certificate(Path certificateFile, Path keyFile) {
        this.certificateFile = certificateFile;
        this.keyFile = keyFile;
        return this;
    }

    /** How long a call takes for its caller at most, repeats included: 30 s by default, 10 min at most. */
    public TokenSourceBuilder timeout(Duration timeout) {
        this.timeout = timeout;
        return this;
    }

    /** Whether the JVM's proxy ({@code https.proxyHost}, {@link java.net.ProxySelector}) is used: it is not by default. */
    public TokenSourceBuilder useProxy(boolean useProxy) {
        this.useProxy = useProxy;
        return this;
    }

    /**
     * The source. Nothing is read and nobody is asked before the first token is: {@link TokenSource#warm} shows whether all is
     * well.
     *
     * @throws IllegalArgumentException naming the option, what is wrong with it, and what to do
     */
    public TokenSource build() {
        if (endpoints.isEmpty()) {
            throw new IllegalArgumentException("endpoint: there is none: give at least one, such as http://127.0.0.1:50051");
        }
        var parsed = new ArrayList<Endpoint>();
        endpoints.forEach(endpoint -> parsed.add(Endpoint.parse(endpoint)));
        check(parsed);
        var within = checked(timeout);
        var time = new SystemTime();
        var files = new TlsFiles(caFile, certificateFile, keyFile);
        var token = tokenFile == null ? null : new TokenFile(tokenFile, TokenFile.READ_TIMEOUT);
        return new TokenSource(new Brokers(parsed, files, token, useProxy, within, time), time, within);
    }

    private void check(List<Endpoint> parsed) {
        boolean isTls = parsed.get(0).isTls;
        if (parsed.stream().anyMatch(endpoint -> endpoint.isTls != isTls)) {
            throw new IllegalArgumentException("endpoint: http:// and https:// are mixed: give one kind only");
        }
        refuse(!isTls && caFile != null, "caFile",
            "goes with https:// alone, and the endpoint says http://: give https://, or no CA");
        refuse(!isTls && tokenFile != null, "tokenFile", "would be sent in plaintext over http://: give https:// and caFile");
        refuse(!isTls && (certificateFile != null || keyFile != null), "certificate",
            "is of no use over http://: give https:// and caFile");
        refuse(isTls && caFile == null, "caFile",
            "is missing, and the endpoint says https://: give the CA of the broker's certificate");
        refuse(certificateFile != null && keyFile == null, "keyFile", "is missing: give the key of the certificate");
        refuse(keyFile != null && certificateFile == null, "certificateFile", "is missing: give the certificate of the key");
        refuse(tokenFile != null && certificateFile != null, "tokenFile",
            "and certificate are both given: the broker asks for one of them: leave one out");
    }

    private static void refuse(boolean isUnfit, String option, String why) {
        if (isUnfit) {
            throw new IllegalArgumentException(option + " " + why);
        }
    }

    /** A timeout that can be: no longer than the longest. */
    static Duration checked(Duration timeout) {
        if (timeout.isZero() || timeout.isNegative()) {
            throw new IllegalArgumentException("timeout: " + timeout + " is no time: give one above zero, such as 30 s");
        }
        return timeout.compareTo(TIMEOUT_MAX) > 0 ? TIMEOUT_MAX : timeout;
    }
}
