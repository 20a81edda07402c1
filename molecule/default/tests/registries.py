"""A container registry for tests in which the host pulls its images."""

import json
import ssl
import subprocess
from base64 import b64encode
from pathlib import Path
from secrets import token_hex
from urllib.error import URLError
from urllib.request import Request, urlopen

import yaml
from certificates import make_certificate
from outside import ROOT, wait_until

IMAGE = "slipway/registry"
SOURCE = Path(__file__).with_name("registry")


def docker_here(*arguments, **options):
    """Run docker on the machine that runs the tests, and return what docker prints."""
    done = subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True, **options)
    return done.stdout.strip()


class Registry:
    """A container registry on the host's network, with TLS and one user, anna.

    ca: the path of the registry's self-signed certificate. password: anna's password.
    """

    def __init__(self, name, directory):
        self.name, self.directory = name, directory
        self.password = f"mark{token_hex(16)}"
        certificate, _ = make_certificate(directory, [name])
        self.ca = str(certificate)
        self.context = ssl.create_default_context(cafile=certificate)
        self.context.check_hostname = False

    def create(self):
        """Build the registry's image, write its list of users, and create its container."""
        base = yaml.safe_load((ROOT / "roles/sandbox/vars/main.yml").read_text())["__sandbox_base_image"]
        docker_here("build", "--build-arg", f"BASE_IMAGE={base}", "--tag", IMAGE, str(SOURCE))
        users = docker_here("run", "--rm", "-i", IMAGE, "htpasswd", "-inB", "anna", input=self.password)
        (self.directory / "htpasswd").write_text(users)
        docker_here("create", "--name", self.name, "--label=slipway.test", "--network=slipway-sandbox", IMAGE)

    def copy_files(self):
        """Copy the certificate, its key and the list of users into the container."""
        docker_here("cp", f"{self.directory}/.", f"{self.name}:/srv")

    def start(self):
        """Start the registry, and wait until it answers."""
        docker_here("start", self.name)
        wait_until(self.is_up, 20, "the registry answers")

    def stop(self):
        """Stop the registry without a delay."""
        docker_here("stop", "--time=0", self.name)

    def remove(self):
        """Remove the registry's container and the images that the registry holds."""
        docker_here("rm", "--force", "--volumes", self.name)

    def ask(self, path):
        """Request a path of the registry's API as anna, and return the JSON."""
        [container] = json.loads(docker_here("inspect", self.name))
        address = container["NetworkSettings"]["Networks"]["slipway-sandbox"]["IPAddress"]
        login = b64encode(f"anna:{self.password}".encode()).decode()
        headers = {
            "Authorization": f"Basic {login}",
            "Accept": "application/vnd.docker.distribution.manifest.v2+json",
        }
        request = Request(f"https://{address}:5000{path}", headers=headers)
        with urlopen(request, context=self.context) as answer:
            return json.load(answer)

    def is_up(self):
        """Return whether the registry answers."""
        try:
            return self.ask("/v2/") == {}
        except URLError:
            return False

    def logs(self):
        """Return the registry's log."""
        return subprocess.run(["docker", "logs", self.name], capture_output=True, text=True).stderr
