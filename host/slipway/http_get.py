"""One GET request over HTTP or HTTPS."""

import http.client
import socket
import ssl


def get(
    address: str, path: str, host: str, timeout: float = 5, tls: bool = False, cookie: str = ""
) -> tuple[int | None, str]:
    """Return (status, body) of a GET; status is None and body the reason when there is no answer.

    Args:
        address: `name:port` to connect to; an IPv6 address in brackets.
        path: path of the URL.
        host: the Host header, and with TLS the server name (RFC 6066).
        timeout: seconds for connecting and for each read.
        tls: whether to use TLS; the certificate is not verified, since a release only has to serve pages.
        cookie: the Cookie header, if any.
    """
    connection = http.client.HTTPConnection(address, timeout=timeout)
    try:
        if tls:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            plain = socket.create_connection((connection.host, connection.port), timeout)
            connection.sock = context.wrap_socket(plain, server_hostname=host.partition(":")[0])
        connection.request("GET", path, headers={"Host": host} | ({"Cookie": cookie} if cookie else {}))
        response = connection.getresponse()
        return response.status, response.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return None, str(error)
    finally:
        connection.close()
