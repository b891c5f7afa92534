"""What a server is asked to be and what it may be asked for, checked before anything is loaded."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from qsched_edge.errors import RequestError

LONGEST_QUEUE = 1000
MOST_IN_A_REQUEST = 64
LARGEST_SIDE = 4096


@dataclass(frozen=True)
class ServeSettings:
    """Where to listen (`port` 0: any that is free), and limits: requests that wait while one is drawn, pictures of one
    request, and the longer side of a picture in pixels, where the bundle's own is not larger."""

    host: str = "127.0.0.1"
    port: int = 8000
    queue: int = 8
    max_images: int = 4
    max_side: int = 1024

    def __post_init__(self) -> None:
        for name, high in (("port", 65535), ("queue", LONGEST_QUEUE)):
            check(name, getattr(self, name), 0, high)
        check("max_images", self.max_images, 1, MOST_IN_A_REQUEST)
        check("max_side", self.max_side, 1, LARGEST_SIDE)

    @property
    def loopback(self) -> bool:
        """Whether this machine alone reaches the server."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def hosts(self) -> list[str]:
        """Host headers that are answered. On loopback no other name is: a page of a stranger whose name was made to
        point here (DNS rebinding) would read pictures and files."""
        return ["localhost", "127.0.0.1", "[::1]", self.host] if self.loopback else ["*"]


def check(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise RequestError(f"--{name.replace('_', '-')} {value} is out of range: use {low} to {high}")
