"""Manifests that c2pa-python signed itself, read back; and a module of that name that answers badly."""

import datetime
import io
import json
import sys
import types

import pytest
from PIL import features

from detector.facts import as_lines, read_facts
from tests.detector.facts.files import TRAINED, encode, manifest_store, picture, with_chunks

TYPES = {"JPEG": "image/jpeg", "PNG": "image/png", "TIFF": "image/tiff", "WEBP": "image/webp"}
MANIFEST = {
    "claim_generator_info": [{"name": "Test maker", "version": "1.2"}],
    "assertions": [
        {
            "label": "c2pa.actions",
            "data": {"actions": [{"action": "c2pa.created", "digitalSourceType": TRAINED}]},
        }
    ],
}


def certificate():
    """A signer's certificate with that of its own authority, and the signer's key, as PEM."""
    x509 = pytest.importorskip("cryptography.x509", reason="signing needs cryptography, which c2pa-python brings")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    now = datetime.datetime.now(datetime.timezone.utc)
    keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("authority", "signer")}

    def name_of(name):
        organisation = x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "tests")
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name), organisation])

    def signed(name, *extensions):
        public = keys[name].public_key()
        builder = x509.CertificateBuilder(
            subject_name=name_of(name),
            issuer_name=name_of("authority"),
            public_key=public,
            serial_number=x509.random_serial_number(),
            not_valid_before=now - datetime.timedelta(days=1),
            not_valid_after=now + datetime.timedelta(days=2),
        )
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), False)
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        certificate = builder.sign(keys["authority"], hashes.SHA256())
        return certificate.public_bytes(serialization.Encoding.PEM)

    def usage(sign, certify):
        return x509.KeyUsage(sign, False, False, False, False, certify, False, False, False), True

    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(keys["authority"].public_key()), False
    mail = x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.EMAIL_PROTECTION]), False
    authority = signed("authority", (x509.BasicConstraints(True, None), True), usage(False, True))
    signer = signed("signer", (x509.BasicConstraints(False, None), True), usage(True, False), issuer, mail)
    key = keys["signer"].private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return signer + authority, key


@pytest.mark.parametrize("format", TYPES)
def test_a_signed_manifest(format, rng, tmp_path):
    c2pa = pytest.importorskip("c2pa", reason="needs c2pa-python")
    if format == "WEBP" and not features.check("webp"):
        pytest.skip("this Pillow has no WebP")
    chain, key = certificate()
    signer = c2pa.Signer.from_info(c2pa.C2paSignerInfo(alg=b"es256", sign_cert=chain, private_key=key, ta_url=None))
    signed = io.BytesIO()
    image = io.BytesIO(encode(picture(rng), format))
    c2pa.Builder(json.dumps(MANIFEST)).sign(signer, TYPES[format], image, signed)
    (tmp_path / "signed").write_bytes(signed.getvalue())
    found = read_facts(tmp_path / "signed")
    assert found.problems == ()
    assert (found.c2pa.claim_generator, found.c2pa.validation) == ("Test maker 1.2", "Valid")
    assert (found.c2pa.digital_source_types, found.c2pa.note) == ((TRAINED,), None)
    assert found.to_dict()["c2pa"]["digital_source_types"] == [TRAINED]
    if format == "PNG":
        data = bytearray(signed.getvalue())
        data[-20] ^= 1  # of the pixels
        (tmp_path / "changed").write_bytes(data)
        assert read_facts(tmp_path / "changed").c2pa.validation == "Invalid"


@pytest.fixture
def unread(rng, tmp_path):
    """A PNG with the start of a manifest store."""
    path = tmp_path / "a.png"
    path.write_bytes(with_chunks(encode(picture(rng), "PNG"), (b"caBX", manifest_store())))
    return path


def test_without_the_package(unread, monkeypatch):
    monkeypatch.setitem(sys.modules, "c2pa", None)
    found = read_facts(unread)
    assert found.c2pa.note == "needs c2pa-python: pip install 'npr-kernels[c2pa]'"
    assert found.problems == ()
    assert any(line.startswith("C2PA: a manifest; needs c2pa-python") for line in as_lines(found))


@pytest.mark.parametrize("store", ["", "[]", "{}", '{"active_manifest": "a", "manifests": {"a": {"assertions": [3]}}}'])
def test_stores_that_are_not_as_described(store, unread, monkeypatch):
    class Opened:
        def __init__(self, *_, **__):
            pass

        @classmethod
        def from_dict(cls, settings):
            assert settings["verify"]["remote_manifest_fetch"] is False
            return cls()

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def json(self):
            return store

    monkeypatch.setitem(sys.modules, "c2pa", types.SimpleNamespace(Context=Opened, Reader=Opened))
    assert "c2pa-python cannot read it" in read_facts(unread).c2pa.note
