"""A certificate authority of the tests' own, by the openssl command: for certificates that are right, expired, or another's."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import attrs

# Python 3.13 takes no authority that does not say what it may do, and no certificate that does not say whose it is.
_AUTHORITY = ("-subj", "/CN=Tests", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@attrs.frozen
class Authority:
    """Its files are in `folder`; whoever is to trust it is given `certificate`."""

    folder: Path

    @property
    def certificate(self) -> Path:
        return self.folder / "authority.crt"

    def issue(self, into: Path, name: str = "localhost", days: int = 2) -> None:
        """Write server.crt and server.key for a name into a server's folder, owned as the folder is. No days: expired."""
        key, request, certificate = into / "server.key", self.folder / "request", into / "server.crt"
        self._openssl("req", *_KEY, "-keyout", str(key), "-out", str(request), "-subj", f"/CN={name}")
        (self.folder / "names").write_text(f"subjectAltName=DNS:{name}\nauthorityKeyIdentifier=keyid\n")
        signing = ("-CA", "authority.crt", "-CAkey", "authority.key", "-CAcreateserial", "-days", str(days), "-extfile", "names")
        self._openssl("x509", "-req", "-in", str(request), "-out", str(certificate), *signing)
        for file in (key, certificate):
            shutil.chown(file, into.owner())
            file.chmod(0o600)

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=self.folder)


def new_authority(folder: Path) -> Authority:
    """An authority that nobody has heard of, in a folder that is made."""
    folder.mkdir()
    authority = Authority(folder)
    authority._openssl("req", "-x509", *_KEY, *_AUTHORITY, "-days", "2", "-keyout", "authority.key", "-out", "authority.crt")
    return authority
