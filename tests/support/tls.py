"""Certificates, and a server's port behind TLS."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.support.wait import patient


def self_signed(name: str, folder: Path) -> tuple[Path, Path]:
    """A certificate for a name, and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    who = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    signed = (
        x509.CertificateBuilder(who, who, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "cert.pem").write_bytes(signed.public_bytes(pem))
    (folder / "key.pem").write_bytes(private)
    return folder / "cert.pem", folder / "key.pem"


@dataclass
class TlsPort:
    """A port that speaks TLS and passes everything on."""

    port: int
    certificate: Path
    received: bytearray = field(default_factory=bytearray)
    """What clients said, in the clear."""


@contextmanager
def behind_tls(target_port: int, name: str, folder: Path) -> Iterator[TlsPort]:
    """A TLS port in front of a server of this host, with a certificate for `name`."""
    certificate, key = self_signed(name, folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        tls = TlsPort(listening.getsockname()[1], certificate)

        def accept() -> None:
            with suppress(OSError):  # closed at the end
                while True:
                    client, _ = listening.accept()
                    threading.Thread(target=serve, args=(client,), daemon=True).start()

        def serve(plain: socket.socket) -> None:
            plain.settimeout(patient(60))
            with (
                suppress(OSError),  # also of a handshake that the client ends
                context.wrap_socket(plain, server_side=True) as client,
                socket.create_connection(("127.0.0.1", target_port)) as server,
            ):
                threading.Thread(target=_pass_on, args=(server, client), daemon=True).start()
                _pass_on(client, server, tls.received)

        threading.Thread(target=accept, daemon=True).start()
        yield tls


def _pass_on(source: socket.socket, target: socket.socket, copy: bytearray | None = None) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            if copy is not None:
                copy += data
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
