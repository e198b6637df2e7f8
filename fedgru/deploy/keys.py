"""Who is who: a certificate for the server, and a pair of keys for every client.

The federation has its own certificate authority, which signs the server's certificate. Clients
trust only its `ca.crt`. They prove their identity with a private key that never leaves their
machine; the server knows the public key.
"""

import datetime
import ipaddress
import os
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from fedgru.core.errors import ConfigError
from fedgru.storage.files import write_whole

CA_DAYS, SERVER_DAYS = 3650, 365
CA_KEY, CA_CERT = "ca.key", "ca.crt"
SERVER_KEY, SERVER_CERT = "server.key", "server.crt"
SOON_DAYS = 30  # a certificate that ends sooner gets a warning
_OWN_MACHINE = ("localhost", "127.0.0.1", "::1")  # how the server's own programs reach it
_SKEW = datetime.timedelta(hours=1)  # clients' clocks can be behind


def make_certificate(
    folder: str | Path, hosts: Iterable[str], days: int = SERVER_DAYS
) -> datetime.datetime:
    """Make a certificate of the server, or renew it; also make its authority if there is none.

    Clients keep the `ca.crt` they have: a renewed certificate is signed by the same authority.

    Args:
        folder: where `ca.key`, `ca.crt`, `server.key` and `server.crt` are.
        hosts: names and addresses under which clients reach the server.
        days: how long the certificate is valid.

    Returns:
        When it ends, datetime, UTC.

    Raises:
        ConfigError: if the authority in the folder cannot be read.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    hosts = list(dict.fromkeys([*hosts, *_OWN_MACHINE]))
    ca_key, ca_cert = _authority(folder)
    key = ec.generate_private_key(ec.SECP384R1())
    ends = min(_now() + datetime.timedelta(days=days), ca_cert.not_valid_after_utc)
    server_auth = x509.oid.ExtendedKeyUsageOID.SERVER_AUTH
    certificate = (
        _begin(f"fedgru server {hosts[0]}", ca_cert.subject, key, ends)
        .add_extension(x509.SubjectAlternativeName([_host(x509, h) for h in hosts]), False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
        .add_extension(x509.ExtendedKeyUsage([server_auth]), False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), False
        )
        .sign(ca_key, _sha384())
    )
    _write_private(folder / SERVER_KEY, _private_pem(key))
    _write(folder / SERVER_CERT, certificate.public_bytes(_pem()))
    return ends


def _authority(folder: Path) -> tuple[Any, Any]:
    """Read the authority in a folder, or make one."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key_file, cert_file = folder / CA_KEY, folder / CA_CERT
    if key_file.exists() or cert_file.exists():
        try:
            key = serialization.load_pem_private_key(key_file.read_bytes(), None)
            return key, x509.load_pem_x509_certificate(cert_file.read_bytes())
        except (OSError, ValueError, TypeError):
            raise ConfigError(
                f"{folder} has no {CA_KEY} and {CA_CERT} that can be read. Bring both back; or "
                "delete both for a new authority, whose ca.crt every client then needs."
            ) from None
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "fedgru authority")])
    usage = dict.fromkeys(
        (
            *("digital_signature", "content_commitment", "key_encipherment", "crl_sign"),
            *("data_encipherment", "key_agreement", "encipher_only", "decipher_only"),
        ),
        False,
    )
    ends = _now() + datetime.timedelta(days=CA_DAYS)
    certificate = (
        _begin("fedgru authority", name, key, ends)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        .add_extension(x509.KeyUsage(key_cert_sign=True, **usage), True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .sign(key, _sha384())
    )
    _write_private(key_file, _private_pem(key))
    _write(cert_file, certificate.public_bytes(_pem()))
    return key, certificate


def make_key(file: str | Path) -> Path:
    """Make a client's private and public key.

    Args:
        file: path of the private key, made with mode 0600; the public one is written beside it,
            with .pub at the end of its name.

    Returns:
        Path of the public key.

    Raises:
        ConfigError: if there is a key already.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    file = Path(file)
    public = file.with_name(f"{file.name}.pub")
    for one in (file, public):
        if one.exists():
            raise ConfigError(f"{one} exists already: a client keeps its key. Choose another name.")
    file.parent.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP384R1())
    openssh = serialization.PrivateFormat.OpenSSH
    _write_private(file, key.private_bytes(_pem(), openssh, serialization.NoEncryption()))
    text = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    _write(public, text + b"\n")
    return public


def public_keys(folder: str | Path) -> dict[str, Path]:
    """Return {name: path} of the public keys in a folder, NAME.pub each.

    Raises:
        ConfigError: if there are none.
    """
    found = {file.name.removesuffix(".pub"): file for file in sorted(Path(folder).glob("*.pub"))}
    if not found:
        raise ConfigError(
            f"{folder} has no NAME.pub. A client makes its keys with: fedgru deploy key NAME. Put "
            "the NAME.pub that each client sends you there."
        )
    return found


def check_certificate(
    folder: str | Path, now: datetime.datetime | None = None
) -> datetime.datetime:
    """Return when the server's certificate ends, datetime, UTC.

    Args:
        folder: as for `make_certificate`.
        now: datetime, UTC, at which it must be valid; None takes the present time.

    Raises:
        ConfigError: if there is none that can be read, or it has ended.
    """
    from cryptography import x509

    folder, again = Path(folder), "fedgru deploy certificate"
    for name in (SERVER_KEY, SERVER_CERT, CA_CERT):
        if not (folder / name).is_file():
            raise ConfigError(
                f"{folder} has no {name}. Make the server's certificate with: {again} {folder} "
                "--host NAME"
            )
    try:
        certificate = x509.load_pem_x509_certificate((folder / SERVER_CERT).read_bytes())
    except ValueError:
        raise ConfigError(f"{folder / SERVER_CERT} is no certificate.") from None
    ends = certificate.not_valid_after_utc
    if ends < (now or _now()):
        raise ConfigError(
            f"{folder / SERVER_CERT} ended on {ends:%Y-%m-%d}. Renew it with: {again} {folder} "
            "--host NAME, for each name that clients use."
        )
    return ends


def _begin(name: str, issuer: Any, key: Any, ends: datetime.datetime) -> Any:
    from cryptography import x509

    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_now() - _SKEW)
        .not_valid_after(ends)
    )


def _host(x509: ModuleType, host: str) -> Any:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0)


def _sha384() -> Any:
    from cryptography.hazmat.primitives import hashes

    return hashes.SHA384()


def _pem() -> Any:
    from cryptography.hazmat.primitives import serialization

    return serialization.Encoding.PEM


def _private_pem(key: Any) -> bytes:
    from cryptography.hazmat.primitives import serialization

    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(_pem(), form, serialization.NoEncryption())


def _write(file: Path, content: bytes) -> None:
    write_whole(file, lambda stream: stream.write(content))


def _write_private(file: Path, content: bytes) -> None:
    """Write a file that only its owner can read, also while it is written."""
    before = os.umask(0o077)
    try:
        _write(file, content)
    finally:
        os.umask(before)
