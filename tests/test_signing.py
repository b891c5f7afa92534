"""Signatures by real keys and certificates, made here: who signed what, and every way in which that is not so."""

import datetime
import shutil
from pathlib import Path

import pytest
from conftest import cli

pytest.importorskip("model_signing")

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from qsched_edge.bundle.signing import Signer, check_identity, sign, signature_of
from qsched_edge.bundle.verify import verify
from qsched_edge.errors import BundleError, OutputExistsError, RequestError


def write_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """NAME.pem and NAME.pub."""
    key = ec.generate_private_key(ec.SECP256R1())
    plain = serialization.NoEncryption()
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, plain)
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    path.with_suffix(".pub").write_bytes(public)
    return key


def certificate(
    subject: str, key: ec.EllipticCurvePrivateKey, issuer: str, by: ec.EllipticCurvePrivateKey, root: bool
) -> x509.Certificate:
    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    now = datetime.datetime.now(datetime.timezone.utc)
    usage = x509.KeyUsage(not root, False, False, False, False, root, root, False, False)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1 + root))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=root, path_length=None), critical=True)
        .add_extension(usage, critical=True)
    )
    if not root:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
    return builder.sign(by, hashes.SHA256())


@pytest.fixture
def bundle(bundles: dict[int, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundles[4], tmp_path / "bundle"))


def test_a_key_signs_and_its_public_half_knows_it(bundle: Path, tmp_path: Path) -> None:
    write_key(tmp_path / "mine.pem")
    write_key(tmp_path / "other.pem")
    signature = sign(bundle, Signer(tmp_path / "mine.pem"), signature_of(bundle))
    assert signature == tmp_path / "bundle.sig"
    check_identity(bundle, tmp_path / "mine.pub", signature)
    verify(bundle)  # nothing was put into it
    with pytest.raises(BundleError, match=r"does not say that .*other.pub signed"):
        check_identity(bundle, tmp_path / "other.pub", signature)
    with pytest.raises(OutputExistsError, match="--force"):
        sign(bundle, Signer(tmp_path / "mine.pem"), signature)


@pytest.mark.parametrize("change", ["a byte", "a file more", "a file less", "a hidden file", "a link"])
def test_any_other_bundle_is_not_the_signed_one(change: str, bundle: Path, tmp_path: Path) -> None:
    write_key(tmp_path / "mine.pem")
    signature = sign(bundle, Signer(tmp_path / "mine.pem"), signature_of(bundle))
    data = bundle / "unet/model.onnx_data"
    if change == "a byte":
        data.write_bytes(data.read_bytes()[:-1] + b"x")
    elif change == "a file less":
        (bundle / "README.md").unlink()
    elif change == "a link":
        data.rename(tmp_path / "data")
        data.symlink_to(tmp_path / "data")
    else:
        (bundle / ("stray" if change == "a file more" else ".gitignore")).write_text("x")
    with pytest.raises(BundleError, match="does not say that") as caught:
        check_identity(bundle, tmp_path / "mine.pub", signature)
    assert len(str(caught.value)) <= 300


def test_a_certificate_signs_and_its_issuer_is_trusted(bundle: Path, tmp_path: Path) -> None:
    root_key, key = write_key(tmp_path / "root.pem"), write_key(tmp_path / "mine.pem")
    root = certificate("root", root_key, "root", root_key, True)
    for name, made in {"root": root, "mine": certificate("mine", key, "root", root_key, False),
                       "stranger": certificate("root", key, "root", key, True)}.items():  # fmt: skip
        (tmp_path / f"{name}.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    signer = Signer(tmp_path / "mine.pem", tmp_path / "mine.crt", [tmp_path / "root.crt"])
    signature = sign(bundle, signer, tmp_path / "x.sig")
    check_identity(bundle, tmp_path / "root.crt", signature)
    with pytest.raises(BundleError, match="does not say that"):
        check_identity(bundle, tmp_path / "stranger.crt", signature)


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b"\xff", b"x" * 1000, b'{"dsseEnvelope": {"payload": "AA=="}}'])
def test_what_is_no_signature_is_refused(text: bytes, bundle: Path, tmp_path: Path) -> None:
    write_key(tmp_path / "mine.pem")
    (tmp_path / "x.sig").write_bytes(text)
    with pytest.raises(BundleError, match="does not say that") as caught:
        check_identity(bundle, tmp_path / "mine.pub", tmp_path / "x.sig")
    assert len(str(caught.value)) <= 300
    assert str(caught.value).isprintable()


def test_what_cannot_sign_or_be_trusted_is_named(bundle: Path, tmp_path: Path) -> None:
    write_key(tmp_path / "mine.pem")
    (tmp_path / "text.pem").write_text("no key")
    for key in (tmp_path / "text.pem", tmp_path / "missing.pem"):
        with pytest.raises(RequestError, match="cannot sign"):
            sign(bundle, Signer(key), tmp_path / "x.sig")
    with pytest.raises(RequestError, match="lies in the bundle"):
        sign(bundle, Signer(tmp_path / "mine.pem"), bundle / "x.sig")
    with pytest.raises(BundleError, match="is no signature"):
        check_identity(bundle, tmp_path / "mine.pub", tmp_path / "x.sig")
    sign(bundle, Signer(tmp_path / "mine.pem"), tmp_path / "x.sig")
    with pytest.raises(RequestError, match="no public key and no certificate"):
        check_identity(bundle, tmp_path / "text.pem", tmp_path / "x.sig")


def test_the_command_line_signs_and_verifies(bundle: Path, tmp_path: Path) -> None:
    write_key(tmp_path / "mine.pem")
    done = cli("sign", bundle, "--key", tmp_path / "mine.pem")
    assert done.returncode == 0, done.stderr
    done = cli("verify", bundle, "--identity", tmp_path / "mine.pub", "--quiet")
    assert done.returncode == 0, done.stderr
    assert "signed by" in done.stdout
    (bundle / "README.md").write_text("x")
    done = cli("verify", bundle, "--identity", tmp_path / "mine.pub", "--quiet")
    assert done.returncode == 1
    assert "does not say that" in done.stderr
