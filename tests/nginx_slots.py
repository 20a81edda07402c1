"""A real nginx with the rendered configuration; other nginx processes stand in for the slots."""

import json

from project import ROOT

# Start nginx with the rendered configuration, and define functions for the scenarios. Another nginx process
# stands in for each slot, and answers with the slot's name.
PREPARE = r"""
mkdir -p /etc/nginx/conf.d /run/slot /srv/media /srv/www /tmp/slots /usr/share/nginx/errors
for page in 4xx 404 500 503; do echo error > "/usr/share/nginx/errors/$page.html"; done
declare -A slots
address() { case $1 in blue) echo 127.0.0.11 ;; green) echo 127.0.0.12 ;; esac; }
sed "s/@BLUE@/$(address blue)/; s/@GREEN@/$(address green)/" > /etc/nginx/conf.d/blog.conf

start() {
    cat > "/tmp/slots/$1.conf" <<END
        daemon off;
        master_process off;
        pid /tmp/slots/$1.pid;
        error_log /dev/null;
        events {}
        http {
            access_log off;
            client_body_temp_path /tmp/slots/$1-bodies;
            server {
                listen $(address "$1"):8000;
                location / { return 200 $1; }
                location /not-found { return 404 $1; }
                location /page { add_header X-Accel-Expires 60; return 200 $1; }
                location /media/ { add_header X-Accel-Expires 60; return 200 $1; }
            }
        }
END
    nginx -c "/tmp/slots/$1.conf" > /dev/null &
    slots[$1]=$!
    until (: < "/dev/tcp/$(address "$1")/8000") 2> /dev/null; do sleep 0.1; done
}
stop() {
    kill -KILL "${slots[$1]}"
    wait "${slots[$1]}" || true
}
isolate() { touch "/run/slot/isolated-$1"; }
switch() {
    rm -f "/run/slot/isolated-$1"
    if [ "$1" = green ]; then touch /run/slot/green; else rm -f /run/slot/green; fi
}
# Read an answer, and print its status. Print its body only if the status is 200 or 404: other bodies are
# nginx's error pages.
answer() {
    read -r _ status _ <&3
    while read -r line <&3 && [ "$line" != $'\r' ]; do :; done
    case $status in 200 | 404) echo "$status $(cat <&3)" ;; *) echo "$status" ;; esac
    exec 3>&-
}
ask() {
    exec 3<>/dev/tcp/127.0.0.1/80
    printf 'GET %s HTTP/1.0\r\nHost: blog.example.org\r\n\r\n' "${1:-/}" >&3
    answer
}
# Send the beginning of a request; `end_upload` sends the end.
begin_upload() {
    exec 3<>/dev/tcp/127.0.0.1/80
    printf 'POST / HTTP/1.0\r\nHost: blog.example.org\r\nContent-Length: 2\r\n\r\na' >&3
    sleep 0.3
}
end_upload() { printf b >&3; answer; }

nginx -c /etc/nginx/nginx.conf > /dev/null
start blue
"""


def run_scenario(rendered_cases, check, steps):
    """Run the steps of a scenario, and return the words that they print."""
    conf = (rendered_cases / "plain_http/blog.conf").read_text()
    slots = json.loads((rendered_cases / "plain_http/stack.json").read_text())["slots"]
    for slot, address in slots.items():
        conf = conf.replace(f"{address}:8000", f"@{slot.upper()}@:8000")
    done = check(
        *(f"--tmpfs={path}:mode=1777" for path in ("/run", "/tmp", "/var/cache/nginx")),
        f"--volume={ROOT}/roles/images/files/nginx/nginx.conf:/etc/nginx/nginx.conf:ro",
        command=["bash", "-euc", f"{PREPARE}\n{steps}"],
        stdin=conf,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()
