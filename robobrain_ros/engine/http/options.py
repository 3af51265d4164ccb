"""The options of the HTTP server on the embedded engine. The node's ``openai_server.*`` parameters are generated from them."""

from dataclasses import dataclass

from robobrain_ros.bounds.texts import shortened
from robobrain_ros.engine.addresses import is_host, is_loopback
from robobrain_ros.engine.keys import read_key
from robobrain_ros.engine.option import check_values, option
from robobrain_ros.engine.options import SERVER_PREFIX, EngineOptions
from robobrain_ros.errors import EngineConfigError

SERVER_KEY_VARIABLE = "ROBOBRAIN_ROS_SERVER_KEY"
"""Environment variable with the key that clients of the HTTP server must send, if no file is set."""


@dataclass(frozen=True)
class ServerOptions:
    """Options of the HTTP server. The fields have the same metadata as those of `EngineOptions`."""

    enabled: bool = option(
        False, "Open an OpenAI-compatible HTTP server on the node's embedded engine (docs/how-to/http_server.md)."
    )
    host: str = option("127.0.0.1", "Address on which the server listens. An address that other machines can reach needs a key.")
    port: int = option(9010, "Port on which the server listens.", minimum=1, maximum=65535)
    key_file: str = option(
        "",
        "File that contains only the API key that clients must send in the HTTP header Authorization. Empty: environment "
        f"variable {SERVER_KEY_VARIABLE}, or no key.",
    )
    max_requests: int = option(
        4,
        "Maximum number of HTTP requests at the same time. It must be less than engine.max_num_seqs. The server answers further "
        "requests with status 429.",
        minimum=1,
        maximum=1023,
    )
    max_body_mib: int = option(
        24,
        "Size limit in MiB of the body of a request to /v1/chat/completions, including its images. The same limit applies to "
        "each image that the server downloads. Other routes have a lower limit.",
        minimum=1,
        maximum=1024,
    )
    max_image_pixels: int = option(
        16_777_216,
        "Limit of the total pixels of all images in one HTTP request. The server checks it before it decodes the images.",
        minimum=784,
        maximum=178_956_970,
    )
    max_connections: int = option(
        64,
        "Maximum number of open connections to the HTTP server. Beyond this number, the server closes an idle connection. It "
        "chooses the oldest idle connection of the address that has the most idle connections.",
        minimum=4,
        maximum=1024,
    )
    max_connections_per_client: int = option(
        16,
        "Maximum number of idle connections from one address (IPv6: from one /64 network). Beyond this number, the server closes "
        "the oldest idle connection from this address. A connection is idle unless a request is in progress on it. If the server "
        "has a key, a connection whose request does not have this key is also idle.",
        minimum=1,
        maximum=1024,
    )
    allowed_media_domains: tuple[str, ...] = option(
        (), "Hosts from which the server downloads images by URL. Empty: the server reads only images within the request (data:)."
    )
    model_names: tuple[str, ...] = option(
        (),
        "Names that clients can use for the model in addition to its own name. Empty: the names that the servers of FlagOS "
        "(FlagRelease and FlagScale) use for the same checkpoint (docs/reference/http_server.md).",
    )

    def validate(self, engine: EngineOptions) -> str:
        """Check everything that can be checked without opening the port. Return the key, or an empty string if there is none.

        :raises EngineConfigError: a value is not allowed. The message has the parameter's name and what is allowed.
        """
        check_values(self, SERVER_PREFIX)
        if not self.enabled:
            return ""
        if engine.kind != "embedded":
            raise EngineConfigError(
                "openai_server.enabled needs the embedded engine. With engine.kind remote, clients can use the servers."
            )
        for domain in self.allowed_media_domains:
            if not is_host(domain):
                raise EngineConfigError(
                    f"openai_server.allowed_media_domains contains {shortened(domain, 100)!r}, which is no host. Write the host "
                    "alone, without scheme, port, path and brackets, such as images.example.org or ::1."
                )
        if self.max_requests >= engine.max_num_seqs:
            raise EngineConfigError(
                f"openai_server.max_requests is {self.max_requests}; it must be less than engine.max_num_seqs = "
                f"{engine.max_num_seqs}, so that the robot's requests never wait for HTTP clients."
            )
        key = read_key(self.key_file, f"{SERVER_PREFIX}key_file", SERVER_KEY_VARIABLE)
        if not key and not is_loopback(self.host):
            raise EngineConfigError(
                f"openai_server.host is {self.host}, which other machines can reach, but there is no key. Write a key to a file "
                f"and set openai_server.key_file to it, or set {SERVER_KEY_VARIABLE}."
            )
        return key
