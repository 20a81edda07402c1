"""Ways to reach the host from the machine that runs the tests: its container, plays, HTTP and TCP."""

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

# Drop the caller's ANSIBLE_* variables, because the settings of the repository must apply.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")} | {
    "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")
}


def wait_until(condition, seconds, what):
    """Call condition() until it returns a true value, and return that value. Fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.1)
    return value


# --- The host's container -----------------------------------------------------------------------------------


class Machine:
    """The container in which the host runs. Its addresses are not cached: a restart may change them."""

    def __init__(self, container):
        self.container = container

    @staticmethod
    def docker(*arguments):
        """Run docker on the machine that runs the tests, and return what docker prints."""
        return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True).stdout

    @property
    def network(self):
        """The container's endpoint in the network of the sandbox hosts, from `docker inspect`."""
        [inspected] = json.loads(self.docker("inspect", self.container))
        return inspected["NetworkSettings"]["Networks"]["slipway-sandbox"]

    @property
    def ipv4(self):
        """The host's IPv4 address."""
        return self.network["IPAddress"]

    @property
    def ipv6(self):
        """The host's IPv6 address."""
        return self.network["GlobalIPv6Address"]

    @property
    def subnet(self):
        """The IPv4 network of the host and its neighbours."""
        return str(ip_interface(f"{self.ipv4}/{self.network['IPPrefixLen']}").network)

    @property
    def subnet_ipv6(self):
        """The IPv6 network of the host and its neighbours."""
        return str(ip_interface(f"{self.ipv6}/{self.network['GlobalIPv6PrefixLen']}").network)

    @property
    def gateways(self):
        """The addresses that the machine that runs the tests has in the host's network."""
        return [self.network["Gateway"], self.network["IPv6Gateway"]]

    def restart(self):
        """Reboot the host."""
        self.docker("restart", self.container)

    def lose_power(self):
        """Kill the host without a shutdown, and start it again."""
        self.docker("kill", self.container)
        self.docker("start", self.container)

    def execute(self, script):
        """Run a script as root, and return what it prints. This works even if SSH logins fail."""
        return self.docker("exec", self.container, "sh", "-euc", script)


# --- Plays --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """The exit status and the output of a run of ansible-playbook."""

    status: int
    output: str

    @property
    def changed(self):
        """The number of changed tasks by host. It is empty if ansible-playbook printed no recap."""
        recap = re.findall(r"^(\S+) +: ok=\d+ +changed=(\d+)", self.output, re.MULTILINE)
        return {host: int(number) for host, number in recap}

    @property
    def errors(self):
        """The errors that Ansible prints, each as one line."""
        errors = []
        for shown in re.split(r"^\[ERROR\]: ", self.output, flags=re.MULTILINE)[1:]:
            message, origin, _ = shown.partition("\nOrigin: ")
            errors.append(message if origin else shown.partition("\n\n")[0])
        return [" ".join(error.split()) for error in errors]


def play(playbook, *arguments, **environment):
    """Run a playbook of this repository with extra environment variables, and return its Outcome."""
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
        """Read the body of an HTTPResponse whose begin() was called, and return an Answer."""
        headers = {name.lower(): ", ".join(response.headers.get_all(name)) for name in response.headers}
        return cls(response.status, headers, response.read())

    @property
    def text(self):
        """The body as text."""
        return self.body.decode()


class Connection(http.client.HTTPConnection):
    """A connection to an address, for a name that need not be in DNS. With a context it uses TLS."""

    def __init__(self, address, port, name, context, timeout):
        super().__init__(address, port, timeout=timeout)
        self.name, self.context, self.dialled = name, context, 0

    def connect(self):
        """Connect, and count the connection."""
        self.dialled += 1
        super().connect()
        if self.context:
            self.sock = self.context.wrap_socket(self.sock, server_hostname=self.name)


class Reader:
    """An HTTP client that keeps its connection open between requests.

    With a context it uses TLS, and the server's certificate must be for the name in `host`.
    """

    def __init__(self, address, port, host, context=None, timeout=10):
        self.connection = Connection(address, port, host.partition(":")[0], context, timeout)
        self.host = host

    def request(self, path, method="GET", body=None, **headers):
        """Send one request and return the whole answer. Write a header like Accept_Encoding="gzip"."""
        named = {"Host": self.host} | {name.replace("_", "-"): value for name, value in headers.items()}
        self.connection.request(method, path, body=body, headers=named)
        return Answer.of(self.connection.getresponse())

    def close(self):
        """Close the connection. The next request opens another one."""
        self.connection.close()

    @property
    def dialled(self):
        """The number of connections that this reader has opened."""
        return self.connection.dialled


class SlowSender:
    """A client that keeps a connection open, but sends almost nothing."""

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
    """A Reader that uses HTTP/2 like a browser, and trusts the CA whose PEM text is `authority`.

    If the server reports a request as not processed, libcurl sends it again over another connection. RFC 9113
    permits that after GOAWAY (6.8). libcurl also does so if a connection died; here that is an error.
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
        """Send one request and return the whole answer. Write a header like Accept_Encoding="gzip".

        If the body is a file, the request has no header with the body's length.
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
        """Close the connection. The next request opens another one."""
        if self.curl:
            self.curl.close()
        self.curl = None


class Prober:
    """Readers that request a page continuously, each over one kept connection.

    Each request has a session cookie, so that no cache answers it. A request fails if it gets no answer, or a
    status other than 200. A reader opens another connection only after a failure, or after an answer that
    announced the end of the connection, as any HTTP client does.
    """

    def __init__(self, reader, path="/", readers=2):
        self.reader, self.path = reader, path
        self.answered, self.failures = 0, []
        # When requests failed, in seconds on the clock of time.monotonic().
        self.failed_at = []
        self.lock, self.over = threading.Lock(), threading.Event()
        self.threads = [threading.Thread(target=self.probe) for _ in range(readers)]

    def probe(self):
        """Send requests until the `with` block ends."""
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
                self.failed_at += [time.monotonic()] if failure else []
            self.over.wait(0.01)
        reader.close()

    def ask(self, reader, mark):
        """Send one request with a unique session cookie. Return what is wrong with the answer, or None."""
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
    """A user who signs in and sends forms. The CSRF token is that of the page opened last."""

    def __init__(self, reader, base_url, email, password):
        self.reader, self.base_url, self.cookie, self.token = reader, base_url, "", ""
        self.open("/login")
        self.signed_in = self.send("/login", email=email, password=password).status == 303

    def request(self, path, **arguments):
        """Send one request with the session's cookie."""
        cookie = {"Cookie": self.cookie} if self.cookie else {}
        answer = self.reader.request(path, Referer=f"{self.base_url}/", **cookie, **arguments)
        if found := re.search(r"\b(?:__Host-)?session=[^;]*", answer.headers.get("set-cookie", "")):
            self.cookie = found[0]
        return answer

    def open(self, path):
        """Open a page and return the answer. `send` uses this page's CSRF token from now on."""
        answer = self.request(path)
        if found := re.search(r'name="csrf_token"[^>]*value="([^"]+)"', answer.text):
            self.token = found[1]
        return answer

    def send(self, path, **fields):
        """Send a form with the CSRF token of the page opened last, and return the answer."""
        body = urlencode(fields | {"csrf_token": self.token})
        kind = "application/x-www-form-urlencoded"
        return self.request(path, method="POST", body=body, Content_Type=kind)

    def upload(self, name, picture):
        """Upload a picture with the CSRF token of the page opened last, and return the answer.

        picture: a PIL.Image.
        """
        content = io.BytesIO()
        picture.save(content, "PNG")
        fields = [
            f'name="csrf_token"\r\n\r\n{self.token}'.encode(),
            f'name="file"; filename="{name}"\r\nContent-Type: image/png\r\n\r\n'.encode()
            + content.getvalue(),
        ]
        body = b"".join(b"--x\r\nContent-Disposition: form-data; %s\r\n" % field for field in fields)
        return self.request(
            "/author/media",
            method="POST",
            body=body + b"--x--\r\n",
            Content_Type="multipart/form-data; boundary=x",
            Accept="application/json",
        )

    def is_in(self):
        """Return whether the user is signed in."""
        return self.request("/account").status == 200


class Writer(Prober):
    """An author who opens a page once, then repeatedly sends its form and checks the result."""

    def __init__(self, author):
        super().__init__(lambda: author.reader, readers=1)
        self.author = author
        author.open("/account")

    def ask(self, reader, mark):
        """Change the author's name in the database. Then check that the page shows the new name."""
        status = self.author.send("/account/name", name=mark).status
        if status != 303:
            return f"status {status} to the form"
        page = self.author.request("/account")
        return None if mark in page.text else f"status {page.status}, or another name on the page"


# --- TCP ----------------------------------------------------------------------------------------------------


def answers(address, port, timeout=3):
    """Return whether a port accepts a TCP connection within `timeout` seconds."""
    try:
        socket.create_connection((address, port), timeout=timeout).close()
    except OSError:
        return False
    return True
