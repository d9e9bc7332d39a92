package tokenbroker.client;

import io.grpc.Attributes;
import io.grpc.EquivalentAddressGroup;
import io.grpc.ProxyDetector;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.UnknownHostException;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;

/**
 * The addresses of all endpoints of one channel, as they were looked up last. For one look-up at a time.
 *
 * <p>Must never take an endpoint's addresses away because its name can't be looked up now.
 */
final class Addresses {
    /** What looks a name up; it may take its time. */
    interface Hosts {
        InetAddress[] of(String name) throws UnknownHostException;
    }

    private final ProxyDetector proxies;
    private final Hosts hosts;
    /** What each endpoint has. */
    private final Map<Endpoint, List<EquivalentAddressGroup>> known = new LinkedHashMap<>();

    Addresses(List<Endpoint> endpoints, ProxyDetector proxies, Hosts hosts) {
        endpoints.forEach(endpoint -> known.put(endpoint, List.of()));
        this.proxies = proxies;
        this.hosts = hosts;
    }

    /** All there are, of a name that can't be looked up those that it had; and which names can't. */
    List<EquivalentAddressGroup> lookUp(List<String> failed) {
        var all = new LinkedHashSet<EquivalentAddressGroup>();
        known.replaceAll((endpoint, before) -> {
            var addresses = before;
            try {
                addresses = found(endpoint);
            } catch (UnknownHostException unknown) {
                failed.add("the name " + endpoint.host + " is not known: see that it is right, and that DNS answers");
            } catch (IOException | RuntimeException error) {
                failed.add("the name " + endpoint.host + " can't be looked up: " + error.getMessage());
            }
            all.addAll(addresses);
            return addresses;
        });
        return List.copyOf(all);
    }

    private List<EquivalentAddressGroup> found(Endpoint endpoint) throws IOException {
        var attributes =
            Attributes.newBuilder().set(EquivalentAddressGroup.ATTR_AUTHORITY_OVERRIDE, endpoint.authority()).build();
        var proxied = proxies.proxyFor(InetSocketAddress.createUnresolved(endpoint.host, endpoint.port));
        if (proxied != null) {
            return List.of(new EquivalentAddressGroup(proxied, attributes));
        }
        var found = new ArrayList<EquivalentAddressGroup>();
        for (var address : hosts.of(endpoint.host)) {
            found.add(new EquivalentAddressGroup(new InetSocketAddress(address, endpoint.port), attributes));
        }
        return found;
    }
}
