package tokenbroker.client;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertTrue;

import io.grpc.EquivalentAddressGroup;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.UnknownHostException;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;
import org.junit.Test;

/** Looking up names, of which a test says what they have. */
public class AddressesTest {
    private final Map<String, List<String>> names = new HashMap<>();
    private final List<String> failed = new ArrayList<>();
    private final Addresses addresses = new Addresses(List.of(Endpoint.parse("http://one:1"), Endpoint.parse("http://two:2")),
        address -> null, this::hosts);

    private InetAddress[] hosts(String name) throws UnknownHostException {
        var found = names.get(name);
        if (found == null) {
            throw new UnknownHostException(name);
        }
        if (found.isEmpty()) {
            throw new IllegalStateException("broken");
        }
        var hosts = new ArrayList<InetAddress>();
        for (var host : found) {
            hosts.add(InetAddress.getByName(host));
        }
        return hosts.toArray(new InetAddress[0]);
    }

    private String found() {
        failed.clear();
        return addresses.lookUp(failed).stream().map(AddressesTest::shown).collect(Collectors.joining(" "));
    }

    private static String shown(EquivalentAddressGroup group) {
        var address = (InetSocketAddress) group.getAddresses().get(0);
        return address.getAddress().getHostAddress() + ":" + address.getPort()
            + "=" + group.getAttributes().get(EquivalentAddressGroup.ATTR_AUTHORITY_OVERRIDE);
    }

    @Test
    public void aNameThatCannotBeLookedUpKeepsItsAddresses() {
        names.put("one", List.of("10.0.0.1", "10.0.0.2"));
        names.put("two", List.of("10.0.0.3"));
        assertEquals("10.0.0.1:1=one:1 10.0.0.2:1=one:1 10.0.0.3:2=two:2", found());
        names.remove("one");
        names.put("two", List.of("10.0.0.4"));
        assertEquals("10.0.0.1:1=one:1 10.0.0.2:1=one:1 10.0.0.4:2=two:2", found());
        names.put("two", List.of());
        assertEquals("10.0.0.1:1=one:1 10.0.0.2:1=one:1 10.0.0.4:2=two:2", found());
        assertEquals(2, failed.size());
        names.put("one", List.of("10.0.0.2"));
        assertEquals("10.0.0.2:1=one:1 10.0.0.4:2=two:2", found());
    }

    @Test
    public void whereThereAreNoneYetItIsTold() {
        assertEquals("", found());
        assertTrue(failed.toString(), failed.get(0).contains("one is not known") && failed.get(1).contains("two is not known"));
        names.put("two", List.of("10.0.0.3"));
        assertEquals("10.0.0.3:2=two:2", found());
    }
}
