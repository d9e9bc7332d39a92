package tokenbroker.client;

import java.io.File;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.junit.rules.TemporaryFolder;

/** Keys in each form, and certificates of their own for localhost, as openssl makes them. */
final class Keys extends TemporaryFolder {
    @Override
    protected void before() throws Throwable {
        super.before();
        openssl("genrsa -traditional -out rsa-pkcs1.pem 2048");
        openssl("pkcs8 -topk8 -nocrypt -in rsa-pkcs1.pem -out rsa-pkcs8.pem");
        openssl("ecparam -name prime256v1 -genkey -noout -out ec-sec1.pem");
        openssl("pkcs8 -topk8 -nocrypt -in ec-sec1.pem -out ec-pkcs8.pem");
        openssl("ecparam -name prime256v1 -genkey -noout -out other-sec1.pem");
        openssl("genpkey -algorithm ed25519 -out ed25519-pkcs8.pem");
        certify("rsa-pkcs8", "rsa");
        certify("ec-pkcs8", "ec");
        certify("other-sec1", "ec-other");
        certify("ed25519-pkcs8", "ed25519");
    }

    private void certify(String key, String name) throws IOException, InterruptedException {
        openssl("req -x509 -new -key " + key + ".pem -out " + name + ".pem -days 2 -subj /CN=localhost"
            + " -addext subjectAltName=DNS:localhost,IP:127.0.0.1");
    }

    private void openssl(String arguments) throws IOException, InterruptedException {
        var command = new ArrayList<>(List.of("openssl"));
        command.addAll(List.of(arguments.split(" ")));
        var process = new ProcessBuilder(command).directory(getRoot()).redirectErrorStream(true)
            .redirectOutput(new File(getRoot(), "openssl.log")).start();
        if (process.waitFor() != 0) {
            throw new IOException("openssl " + arguments + ": " + Files.readString(path("openssl.log")));
        }
    }

    Path path(String name) {
        return getRoot().toPath().resolve(name);
    }

    byte[] read(String name) throws IOException {
        return Files.readAllBytes(path(name));
    }
}
