package tokenbroker.client;

import io.grpc.ChannelCredentials;
import io.grpc.InsecureChannelCredentials;
import io.grpc.TlsChannelCredentials;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.security.GeneralSecurityException;
import java.util.Arrays;

/**
 * The files that a channel is made of: the brokers' CA, and our certificate and its key.
 *
 * <p>Must never hold a key longer than it takes to make a channel of it, nor give credentials that can't work.
 */
final class TlsFiles {
    private final Path caFile;
    private final Path certificateFile;
    private final Path keyFile;

    /** Each may be null. */
    TlsFiles(Path caFile, Path certificateFile, Path keyFile) {
        this.caFile = caFile;
        this.certificateFile = certificateFile;
        this.keyFile = keyFile;
    }

    boolean isTls() {
        return caFile != null;
    }

    /** What the files hold now. */
    Contents read() {
        return new Contents(read(caFile), read(certificateFile), read(keyFile));
    }

    private static byte[] read(Path file) {
        if (file == null) {
            return new byte[0];
        }
        try {
            return Files.readAllBytes(file);
        } catch (IOException error) {
            var why = error instanceof NoSuchFileException ? " is not there" : " can't be read: " + error.getMessage();
            throw unusable(file + why, error);
        }
    }

    private static TokenBrokerException unusable(String why, Throwable cause) {
        return TokenBrokerException.ofOurs(
            "TLS can't be set up: " + why + ": give the broker's CA, and your certificate and its key, in PEM", cause);
    }

    /** What the files held. */
    final class Contents {
        private final byte[] ca;
        private final byte[] certificate;
        private final byte[] key;

        private Contents(byte[] ca, byte[] certificate, byte[] key) {
            this.ca = ca;
            this.certificate = certificate;
            this.key = key;
        }

        /** By which a change is seen. */
        byte[] digest() {
            return Pem.digest(ca, certificate, key);
        }

        /** A channel's credentials of these, if they go together. */
        ChannelCredentials credentials() {
            if (!isTls()) {
                return InsecureChannelCredentials.create();
            }
            try {
                var tls = TlsChannelCredentials.newBuilder().trustManager(new ByteArrayInputStream(Pem.certificates(ca, caFile)));
                if (certificateFile != null) {
                    var pair = Pem.pair(certificate, certificateFile, key, keyFile);
                    tls.keyManager(new ByteArrayInputStream(pair.certificates), new ByteArrayInputStream(pair.key));
                    Arrays.fill(pair.key, (byte) 0);
                }
                return tls.build();
            } catch (IOException | GeneralSecurityException | RuntimeException error) {
                throw unusable(error.getMessage(), error);
            } finally {
                Arrays.fill(key, (byte) 0);
            }
        }
    }
}
