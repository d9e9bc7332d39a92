package tokenbroker.client;

import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.security.GeneralSecurityException;
import java.security.KeyFactory;
import java.security.MessageDigest;
import java.security.PrivateKey;
import java.security.PublicKey;
import java.security.Signature;
import java.security.cert.CertificateFactory;
import java.security.spec.PKCS8EncodedKeySpec;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Base64;
import java.util.List;
import java.util.regex.Pattern;

/**
 * Pure: certificates and keys in PEM, as people and cert-manager write them, in the one form that Netty takes.
 *
 * <p>Must never show a key, nor pass a certificate and a key that are not of one pair.
 */
final class Pem {
    private static final Pattern BLOCK = Pattern.compile("-----BEGIN ([A-Z0-9 ]+)-----([^-]*)-----END \\1-----");
    private static final String CERTIFICATE = "CERTIFICATE";
    /** DER of the algorithm of a key whose PKCS #1 form says none: rsaEncryption. */
    private static final byte[] RSA =
        {0x30, 0x0d, 0x06, 0x09, 0x2a, (byte) 0x86, 0x48, (byte) 0x86, (byte) 0xf7, 0x0d, 1, 1, 1, 5, 0};
    /** DER of the object identifier id-ecPublicKey. */
    private static final byte[] EC = {0x06, 0x07, 0x2a, (byte) 0x86, 0x48, (byte) 0xce, 0x3d, 2, 1};
    /** DER of version 0, at the head of PKCS #8. */
    private static final byte[] VERSION = {2, 1, 0};

    private Pem() {}

    /** A certificate, with those that lead to its CA, and its key as PKCS #8. */
    static final class Pair {
        final byte[] certificates;
        final byte[] key;

        private Pair(byte[] certificates, byte[] key) {
            this.certificates = certificates;
            this.key = key;
        }
    }

    /** By which a change of any of these is seen. */
    static byte[] digest(byte[]... parts) {
        try {
            var digest = MessageDigest.getInstance("SHA-256");
            for (var part : parts) {
                digest.update(ByteBuffer.allocate(Integer.BYTES).putInt(part.length).array());
                digest.update(part);
            }
            return digest.digest();
        } catch (GeneralSecurityException impossible) {
            throw new IllegalStateException(impossible);
        }
    }

    /** The certificates among what the file holds, and nothing else. */
    static byte[] certificates(byte[] contents, Path file) throws GeneralSecurityException {
        var blocks = blocks(contents, file, CERTIFICATE);
        if (blocks.isEmpty()) {
            throw new GeneralSecurityException("there is no certificate in " + file);
        }
        var out = new ByteArrayOutputStream();
        for (var der : blocks) {
            try {
                CertificateFactory.getInstance("X.509").generateCertificate(new ByteArrayInputStream(der));
            } catch (GeneralSecurityException unreadable) {
                throw new GeneralSecurityException(file + " holds a certificate that can't be read", unreadable);
            }
            out.writeBytes(armoured(CERTIFICATE, der));
        }
        return out.toByteArray();
    }

    static Pair pair(byte[] certificate, Path certificateFile, byte[] key, Path keyFile) throws GeneralSecurityException {
        var certificates = certificates(certificate, certificateFile);
        var x509 = CertificateFactory.getInstance("X.509");
        var leaf = x509.generateCertificate(new ByteArrayInputStream(certificates)).getPublicKey();
        var pkcs8 = pkcs8(key, keyFile);
        if (!isPair(leaf, keyOf(leaf.getAlgorithm(), pkcs8, keyFile))) {
            throw new GeneralSecurityException("the key in " + keyFile + " is not that of the certificate in " + certificateFile);
        }
        var armoured = armoured("PRIVATE KEY", pkcs8);
        Arrays.fill(pkcs8, (byte) 0);
        return new Pair(certificates, armoured);
    }

    private static PrivateKey keyOf(String algorithm, byte[] pkcs8, Path file) throws GeneralSecurityException {
        try {
            return KeyFactory.getInstance(algorithm).generatePrivate(new PKCS8EncodedKeySpec(pkcs8));
        } catch (GeneralSecurityException other) {
            // Without its cause, which may quote what it read.
            throw new GeneralSecurityException("the key in " + file + " is none of the certificate's kind (" + algorithm + ")");
        }
    }

    private static boolean isPair(PublicKey open, PrivateKey secret) throws GeneralSecurityException {
        var kind = open.getAlgorithm();
        var by = kind.equals("RSA") ? "SHA256withRSA" : kind.equals("EC") ? "SHA256withECDSA" : kind;
        var signature = Signature.getInstance(by);
        var text = CERTIFICATE.getBytes(StandardCharsets.US_ASCII);
        signature.initSign(secret);
        signature.update(text);
        var signed = signature.sign();
        signature.initVerify(open);
        signature.update(text);
        return signature.verify(signed);
    }

    private static byte[] pkcs8(byte[] contents, Path file) throws GeneralSecurityException {
        for (var der : blocks(contents, file, "PRIVATE KEY")) {
            return der;
        }
        for (var der : blocks(contents, file, "RSA PRIVATE KEY")) {
            return der(0x30, VERSION, RSA, der(0x04, der));
        }
        for (var der : blocks(contents, file, "EC PRIVATE KEY")) {
            return der(0x30, VERSION, der(0x30, EC, curve(der, file)), der(0x04, der));
        }
        throw new GeneralSecurityException("there is no key in " + file + " that is not encrypted");
    }

    /** The curve's object identifier, which stands in a key of RFC 5915 under the tag [0]. */
    private static byte[] curve(byte[] key, Path file) throws GeneralSecurityException {
        for (int at = 0; at + 4 < key.length; at++) {
            boolean isCurve = key[at] == (byte) 0xa0 && key[at + 2] == 0x06 && key[at + 1] == key[at + 3] + 2;
            if (isCurve && at + 2 + key[at + 1] <= key.length) {
                return Arrays.copyOfRange(key, at + 2, at + 2 + key[at + 1]);
            }
        }
        throw new GeneralSecurityException(
            "the key in " + file + " does not name its curve: convert it with openssl pkcs8 -topk8");
    }

    private static byte[] der(int tag, byte[]... parts) {
        var body = new ByteArrayOutputStream();
        for (var part : parts) {
            body.writeBytes(part);
        }
        int length = body.size();
        var out = new ByteArrayOutputStream();
        out.write(tag);
        if (length >= 0x100) {
            out.write(0x82);
            out.write(length >> 8);
        } else if (length >= 0x80) {
            out.write(0x81);
        }
        out.write(length);
        out.writeBytes(body.toByteArray());
        return out.toByteArray();
    }

    private static List<byte[]> blocks(byte[] contents, Path file, String kind) throws GeneralSecurityException {
        var found = new ArrayList<byte[]>();
        var blocks = BLOCK.matcher(new String(contents, StandardCharsets.ISO_8859_1));
        while (blocks.find()) {
            if (blocks.group(1).equals(kind)) {
                try {
                    found.add(Base64.getMimeDecoder().decode(blocks.group(2)));
                } catch (IllegalArgumentException broken) {
                    throw new GeneralSecurityException(file + " holds PEM that is not Base64");
                }
            }
        }
        return found;
    }

    private static byte[] armoured(String kind, byte[] der) {
        var encoder = Base64.getMimeEncoder(64, new byte[] {'\n'});
        var text = "-----BEGIN " + kind + "-----\n" + encoder.encodeToString(der) + "\n-----END " + kind + "-----\n";
        return text.getBytes(StandardCharsets.US_ASCII);
    }
}
