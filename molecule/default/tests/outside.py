"""The machine outside the host: it runs plays against the host, and requests pages like a reader."""

import http.client
import io
import itertools
import json
import os
import re
import socket
import ssl
import subprocess
import threading
import time
from dataclasses import dataclass
from ipaddress import ip_interface
from pathlib import Path
from urllib.parse import urlencode

import pycurl

ROOT = Path(__file__).resolve().parents[3]

# Drop the caller's ANSIBLE_* variables: the repository's settings must apply.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")} | {
    "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")
}


def wait_until(condition, seconds, what):
    """Call condition() until it returns a true value, and return that; fail after the deadline."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.1)
    return value


# --- The host's container -----------------------------------------------------------------------------------


class Machine:
    """A container that is a host. A restart may change its addresses, so they are not cached."""

    def __init__(self, container):
        self.container = container

    @staticmethod
    def docker(*arguments):
        """Run docker on the machine outside, and return what it prints."""
        return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True).stdout

    @property
    def network(self):
        """Its endpoint in the sandbox's network, from `docker inspect`."""
        [inspected] = json.loads(self.docker("inspect", self.container))
        return inspected["NetworkSettings"]["Networks"]["slipway-sandbox"]

    @property
    def ipv4(self):
        """Its IPv4 address."""
        return self.network["IPAddress"]

    @property
    def ipv6(self):
        """Its IPv6 address."""
        return self.network["GlobalIPv6Address"]

    @property
    def subnet(self):
        """The IPv4 network that it shares with its neighbours."""
        return str(ip_interface(f"{self.ipv4}/{self.network['IPPrefixLen']}").network)

    @property
    def subnet_ipv6(self):
        """The IPv6 network that it shares with its neighbours."""
        return str(ip_interface(f"{self.ipv6}/{self.network['GlobalIPv6PrefixLen']}").network)

    @property
    def gateways(self):
        """The addresses of the machine outside in that network."""
        return [self.network["Gateway"], self.network["IPv6Gateway"]]

    def restart(self):
        """Reboot it."""
        self.docker("restart", self.container)

    def lose_power(self):
        """Kill it without a shutdown, and let it boot."""
        self.docker("kill", self.container)
        self.docker("start", self.container)

    def execute(self, script):
        """Run a script as root, even when SSH logins fail; return what it prints."""
        return self.docker("exec", self.container, "sh", "-euc", script)


# --- Plays --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """How a run of ansible-playbook ended."""

    status: int
    output: str

    @property
    def changed(self):
        """The number of changed tasks, by host; empty if no play reached its recap."""
        recap = re.findall(r"^(\S+) +: ok=\d+ +changed=(\d+)", self.output, re.MULTILINE)
        return {host: int(number) for host, number in recap}

    @property
    def errors(self):
        """The errors as Ansible shows them, each on one line."""
        errors = []
        for shown in re.split(r"^\[ERROR\]: ", self.output, flags=re.MULTILINE)[1:]:
            message, origin, _ = shown.partition("\nOrigin: ")
            errors.append(message if origin else shown.partition("\n\n")[0])
        return [" ".join(error.split()) for error in errors]


def play(playbook, *arguments, **environment):
    """Run a playbook of this repository to its end."""
    done = subprocess.run(
        ["ansible-playbook", playbook, *arguments],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        env=ENVIRONMENT | environment,
    )
    return Outcome(done.returncode, done.stdout)


# --- HTTP ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """An HTTP answer. Header names are in lower case, and the values of a repeated header are joined."""

    status: int
    headers: dict
    body: bytes

    @classmethod
    def of(cls, response):
        """Read all of an HTTPResponse after its begin()."""
        headers = {name.lower(): ", ".join(response.headers.get_all(name)) for name in response.headers}
        return cls(response.status, headers, response.read())

    @property
    def text(self):
        """The body as text."""
        return self.body.decode()


class Connection(http.client.HTTPConnection):
    """A connection to an address, over TLS if there is a context, for a name that need not be in DNS."""

    def __init__(self, address, port, name, context, timeout):
        super().__init__(address, port, timeout=timeout)
        self.name, self.context, self.dialled = name, context, 0

    def connect(self):
        """Connect, and count it."""
        self.dialled += 1
        super().connect()
        if self.context:
            self.sock = self.context.wrap_socket(self.sock, server_hostname=self.name)


class Reader:
    """An HTTP client that keeps its connection open between requests.

    With a context it uses TLS, and the certificate must be for the name in `host`, whatever the address is.
    """

    def __init__(self, address, port, host, context=None, timeout=10):
        self.connection = Connection(address, port, host.partition(":")[0], context, timeout)
        self.host = host

    def request(self, path, method="GET", body=None, **headers):
        """Send one request and return the whole answer; a header is named like Accept_Encoding."""
        named = {"Host": self.host} | {name.replace("_", "-"): value for name, value in headers.items()}
        self.connection.request(method, path, body=body, headers=named)
        return Answer.of(self.connection.getresponse())

    def close(self):
        """Close the connection; the next request opens another."""
        self.connection.close()

    @property
    def dialled(self):
        """The number of connections that it has opened."""
        return self.connection.dialled


class SlowSender:
    """A client that holds a connection, and sends almost nothing."""

    def __init__(self, connection, begin):
        self.connection = connection
        self.connection.sendall(begin.encode())
        self.connection.setblocking(False)

    def is_cut_off(self, more=b""):
        """Send `more`, and return whether the connection has ended."""
        try:
            if more:
                self.connection.send(more)
            return self.connection.recv(65536) == b""
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        except OSError:
            return True

    def close(self):
        """Close the connection."""
        self.connection.close()


class Http2Reader:
    """A Reader over HTTP/2, like a browser, that trusts the CA of a PEM text.

    It repeats a request over another connection if the server reports it as not processed: GOAWAY permits
    that (RFC 9113, 6.8). libcurl also repeats requests when a connection just died; here that is an error.
    """

    def __init__(self, address, port, host, authority, timeout=10):
        self.url, self.dialled, self.curl = f"https://{host}", 0, None
        self.options = {
            pycurl.HTTP_VERSION: pycurl.CURL_HTTP_VERSION_2TLS,
            pycurl.CONNECT_TO: [f"::{address}:{port}"],
            pycurl.CAINFO_BLOB: authority,
            pycurl.TIMEOUT_MS: int(timeout * 1000),
            pycurl.VERBOSE: True,
        }

    def request(self, path, method="GET", body=None, **headers):
        """Send one request and return the whole answer; a header is named like Accept_Encoding.

        A body that is a file is sent without a header for its length.
        """
        if not self.curl:
            self.curl = pycurl.Curl()
        curl, lines, text, said = self.curl, [], io.BytesIO(), []
        options = self.options | {
            pycurl.URL: self.url + path,
            pycurl.CUSTOMREQUEST: method,
            pycurl.HTTPHEADER: [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()],
            pycurl.HEADERFUNCTION: lines.append,
            pycurl.WRITEDATA: text,
            pycurl.DEBUGFUNCTION: lambda kind, line: (
                said.append(line) if kind == pycurl.INFOTYPE_TEXT else None
            ),
        }
        if hasattr(body, "read"):
            options |= {pycurl.UPLOAD: True, pycurl.READDATA: body}
        elif body is not None:
            options[pycurl.POSTFIELDS] = body
        curl.reset()
        for option, value in options.items():
            curl.setopt(option, value)
        try:
            curl.perform()
        except pycurl.error as error:
            raise ConnectionError(*error.args) from None
        finally:
            self.dialled += curl.getinfo(pycurl.NUM_CONNECTS)
        if died := [line for line in said if line.startswith(b"Connection died")]:
            refused = [line for line in said if re.match(rb"HTTP/2 stream \d+ refused by server", line)]
            if len(refused) < len(died):
                raise ConnectionError(died[0].decode().strip())
        status, found = curl.getinfo(pycurl.RESPONSE_CODE), {}
        for line in lines[1:-1]:
            name, _, value = line.decode().partition(":")
            found[name] = f"{found[name]}, {value.strip()}" if name in found else value.strip()
        assert lines[0].startswith(b"HTTP/2 "), lines[0]
        return Answer(status, found, text.getvalue())

    def close(self):
        """Close the connection; the next request opens another."""
        if self.curl:
            self.curl.close()
        self.curl = None


class Prober:
    """Readers that request a page continuously, each over one kept connection.

    Each request has a session cookie, so that no cache answers it. A request fails when its status is not
    200, or when it has no answer. A reader reconnects after an answer that announced the end of the
    connection, as any client does, and after a failure.
    """

    def __init__(self, reader, path="/", readers=2):
        self.reader, self.path = reader, path
        self.answered, self.failures = 0, []
        self.lock, self.over = threading.Lock(), threading.Event()
        self.threads = [threading.Thread(target=self.probe) for _ in range(readers)]

    def probe(self):
        """Send requests until the end."""
        reader, name = self.reader(), threading.get_ident()
        for number in itertools.count():
            if self.over.is_set():
                break
            try:
                failure = self.ask(reader, f"{name}-{number}")
            except (OSError, http.client.HTTPException) as error:
                failure = repr(error)
                reader.close()
            with self.lock:
                self.answered += failure is None
                self.failures += [failure] if failure else []
            self.over.wait(0.01)
        reader.close()

    def ask(self, reader, mark):
        """Send one request with a unique mark; return what is wrong with the answer, or None."""
        status = reader.request(self.path, Cookie=f"session={mark}").status
        return None if status == 200 else f"status {status}"

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        wait_until(lambda: self.answered + len(self.failures) > 10, 10, "the first probes")
        return self

    def __exit__(self, *exception):
        self.over.set()
        for thread in self.threads:
            thread.join()


class Author:
    """A user who signs in, and sends forms of the page opened last."""

    def __init__(self, reader, base_url, email, password):
        self.reader, self.base_url, self.cookie, self.token = reader, base_url, "", ""
        self.open("/login")
        self.signed_in = self.send("/login", email=email, password=password).status == 303

    def request(self, path, **arguments):
        """Send one request within the session."""
        cookie = {"Cookie": self.cookie} if self.cookie else {}
        answer = self.reader.request(path, Referer=f"{self.base_url}/", **cookie, **arguments)
        if found := re.search(r"\b(?:__Host-)?session=[^;]*", answer.headers.get("set-cookie", "")):
            self.cookie = found[0]
        return answer

    def open(self, path):
        """Open a page, whose forms `send` uses from now on, and return the answer."""
        answer = self.request(path)
        if found := re.search(r'name="csrf_token"[^>]*value="([^"]+)"', answer.text):
            self.token = found[1]
        return answer

    def send(self, path, **fields):
        """Send a form of the page that is open, and return the answer."""
        body = urlencode(fields | {"csrf_token": self.token})
        kind = "application/x-www-form-urlencoded"
        return self.request(path, method="POST", body=body, Content_Type=kind)

    def is_in(self):
        """Return whether the session is valid."""
        return self.request("/account").status == 200


class Writer(Prober):
    """An author who repeatedly sends the form of a page opened once, and reads the result."""

    def __init__(self, author):
        super().__init__(lambda: author.reader, readers=1)
        self.author = author
        author.open("/account")

    def ask(self, reader, mark):
        """Change the author's name, which writes to the database; then find it on the page."""
        status = self.author.send("/account/name", name=mark).status
        if status != 303:
            return f"status {status} to the form"
        page = self.author.request("/account")
        return None if mark in page.text else f"status {page.status}, or another name on the page"


# --- TCP ----------------------------------------------------------------------------------------------------


def answers(address, port, timeout=3):
    """Return whether a port accepts a TCP connection within timeout seconds; False if it drops packets."""
    try:
        socket.create_connection((address, port), timeout=timeout).close()
    except OSError:
        return False
    return True
