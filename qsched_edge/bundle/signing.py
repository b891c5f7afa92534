"""Who made a bundle: signatures by OpenSSF's model-signing with a key or a certificate; nothing goes over a network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qsched_edge.errors import BundleError, RequestError
from qsched_edge.work.staging import check_output, write_bytes

SUFFIX = ".sig"
CERTIFICATE, PUBLIC = b"-----BEGIN CERTIFICATE-----", b"-----BEGIN PUBLIC KEY-----"
LARGEST_SIGNATURE = 16 * 2**20  # bytes; one of 1,000 files has some 200 kB


@dataclass(frozen=True)
class Signer:
    """PEM files: an elliptic curve's private key and, to be trusted by its issuer, a certificate and those above it."""

    key: Path
    certificate: Path | None = None
    chain: Sequence[Path] = ()
    password: str | None = None


def signature_of(bundle: Path) -> Path:
    """Where a bundle's signature lies unless another place is named: beside it, for it is none of its files."""
    folder = bundle.resolve()
    return folder.with_name(f"{folder.name}{SUFFIX}")


def sign(bundle: Path, signer: Signer, output: Path, force: bool = False) -> Path:
    """Write a signature of every file in the folder `bundle` to `output`; RequestError for keys that are none."""
    from model_signing import signing

    check_folder(bundle)
    check_output(output, force)
    if bundle.resolve() in output.resolve().parents:
        raise RequestError(f"{output} lies in the bundle, which holds none but listed files: name a file beside it")
    with as_request_error(f"{signer.key} cannot sign"):
        config = signing.Config().set_hashing_config(hashing())
        if signer.certificate is None:
            config.use_elliptic_key_signer(private_key=signer.key, password=signer.password)
        else:
            config.use_certificate_signer(
                private_key=signer.key, signing_certificate=signer.certificate, certificate_chain=signer.chain
            )
    partial = output.with_name(f".{output.name}.partial")
    try:
        with as_request_error(f"{bundle} cannot be signed"):
            config.sign(bundle, partial)
        write_bytes(output, partial.read_bytes())
    finally:
        partial.unlink(missing_ok=True)
    return output


def check_identity(bundle: Path, identity: Path, signature: Path) -> None:
    """BundleError unless `signature` is one of exactly these files by the holder of the public key, or of a certificate
    that one of the certificates, in the PEM file `identity` signed."""
    from model_signing import verifying

    check_folder(bundle)
    if not signature.is_file() or signature.stat().st_size > LARGEST_SIGNATURE:
        raise BundleError(f"{signature} is no signature: `qsched-edge sign` makes one; --signature names another file")
    kind = kind_of(identity)
    try:
        config = verifying.Config().set_hashing_config(hashing())
        if kind == CERTIFICATE:
            config.use_certificate_verifier(certificate_chain=[identity])
        else:
            config.use_elliptic_key_verifier(public_key=identity)
        config.verify(bundle, signature)
    except Exception as error:  # of json, protobuf, cryptography, OpenSSL and model-signing, which share no base
        why = str(error) or type(error).__name__
        raise BundleError(f"{signature} does not say that {identity} signed {bundle} ({why}): do not use it") from error


def check_folder(bundle: Path) -> None:
    if not bundle.is_dir():
        raise BundleError(f"{bundle} is no folder: signatures are of a bundle's folder; unpack a packed one first")


def hashing() -> Any:
    """Every file counts, links are none."""
    from model_signing import hashing as hashes

    config = hashes.Config().use_file_serialization(hashing_algorithm="sha256", allow_symlinks=False)
    return config.set_ignored_paths(paths=[], ignore_git_paths=False)


def kind_of(identity: Path) -> bytes:
    with as_request_error(f"{identity} cannot be read"):
        text = identity.read_bytes()
    for kind in (CERTIFICATE, PUBLIC):
        if kind in text:
            return kind
    raise RequestError(f"{identity} holds no public key and no certificate in PEM form: name whom you trust")


@contextmanager
def as_request_error(what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, TypeError) as error:
        raise RequestError(f"{what} ({type(error).__name__}: {error}): give PEM files of an elliptic curve") from error
