"""fedgru/engines/tff/open_port.py: a worker without a password starts on no public machine."""

import pytest

from fedgru.core.errors import ConfigError
from fedgru.engines.tff.open_port import check_open_port, public_addresses

TRIE = """Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 127.0.0.1
        /32 host LOCAL
     |-- {address}
        /32 host LOCAL
     |-- 8.8.4.255
        /32 link BROADCAST
"""
INET6 = "{digits} 02 40 00 80 eth0\n"


@pytest.fixture
def net(tmp_path):
    """Make a folder as /proc/net of a machine with two addresses."""

    def make(address, digits="fe80000000000000025056fffe000001"):
        (tmp_path / "fib_trie").write_text(TRIE.format(address=address))
        (tmp_path / "if_inet6").write_text(INET6.format(digits=digits))
        return tmp_path

    return make


@pytest.mark.parametrize("address", ["10.0.0.7", "192.168.1.4", "172.17.0.2", "169.254.3.4"])
def test_private_addresses_are_fine(net, address):
    assert public_addresses(net(address)) == []
    check_open_port({}, net(address))


def test_a_public_address_is_refused_unless_allowed(net):
    assert public_addresses(net("8.8.4.4")) == ["8.8.4.4"]
    with pytest.raises(ConfigError, match="has the public address 8.8.4.4: whoever reaches"):
        check_open_port({}, net("8.8.4.4"))
    check_open_port({"FEDGRU_TFF_OPEN_PORT": "1"}, net("8.8.4.4"))
    sixth = net("10.0.0.7", "2a00145040010800000000000000200e")
    with pytest.raises(ConfigError, match="public address 2a00:1450:4001:800::200e"):
        check_open_port({}, sixth)


def test_where_nothing_is_known_nothing_is_refused(tmp_path):
    assert public_addresses(tmp_path) == []
