package tokenbroker.client;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.security.GeneralSecurityException;
import java.security.cert.CertificateFactory;
import java.util.List;
import org.junit.ClassRule;
import org.junit.Test;

/** Certificates and keys, made as the test runs. */
public class PemTest {
    private static final Path FILE = Path.of("a.pem");

    @ClassRule
    public static final Keys KEYS = new Keys();

    private static byte[] join(byte[]... parts) {
        var out = new ByteArrayOutputStream();
        List.of(parts).forEach(out::writeBytes);
        return out.toByteArray();
    }

    @Test
    public void keysOfEachFormBecomeTheOne() throws IOException, GeneralSecurityException {
        for (var key : List.of("rsa-pkcs8", "rsa-pkcs1", "ec-pkcs8", "ec-sec1", "ed25519-pkcs8")) {
            var certificate = KEYS.read(key.substring(0, key.indexOf('-')) + ".pem");
            var pair = Pem.pair(certificate, FILE, KEYS.read(key + ".pem"), FILE);
            assertTrue(new String(pair.key, StandardCharsets.US_ASCII).startsWith("-----BEGIN PRIVATE KEY-----\n"));
            var x509 = CertificateFactory.getInstance("X.509");
            assertEquals(1, x509.generateCertificates(new ByteArrayInputStream(pair.certificates)).size());
        }
    }

    @Test
    public void oneFileMayHoldAll() throws IOException, GeneralSecurityException {
        var before = "text before\r\n".getBytes(StandardCharsets.US_ASCII);
        var all = join(before, KEYS.read("ec-sec1.pem"), KEYS.read("ec.pem"), KEYS.read("rsa.pem"));
        var pair = Pem.pair(all, FILE, all, FILE);
        var certificates = new String(pair.certificates, StandardCharsets.US_ASCII);
        assertEquals(2, certificates.split("BEGIN CERTIFICATE").length - 1);
        assertFalse(certificates.contains("KEY"));
    }

    @Test
    public void whatIsOfNoUseIsNamed() throws IOException {
        var nothing = new byte[0];
        var half = KEYS.read("rsa.pem");
        for (var unfit : List.of(
            List.of("no certificate", nothing, KEYS.read("rsa-pkcs8.pem")),
            List.of("no certificate", java.util.Arrays.copyOf(half, half.length / 2), KEYS.read("rsa-pkcs8.pem")),
            List.of("no key", half, nothing),
            List.of("can't be read",
                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".getBytes(StandardCharsets.US_ASCII), half),
            List.of("none of the certificate's kind", half, KEYS.read("ec-sec1.pem")),
            List.of("is not that of the certificate", KEYS.read("ec-other.pem"), KEYS.read("ec-sec1.pem")))) {
            var error = assertThrows(GeneralSecurityException.class,
                () -> Pem.pair((byte[]) unfit.get(1), FILE, (byte[]) unfit.get(2), FILE));
            assertTrue(error.getMessage(), error.getMessage().contains((String) unfit.get(0)));
        }
    }
}
