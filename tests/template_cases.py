"""The hosts that the templates are rendered for, with their variables."""

# Variables without a default, and the facts that the role `images` sets for the other roles.
REQUIRED = {
    "render_system": "Debian 13",
    "stack_domain": "blog.example.org",
    "release_admin_email": "anna@example.org",
    "images_ids": {
        "nginx": f"sha256:{'a' * 64}",
        "db": f"sha256:{'d' * 64}",
        "flask_blog": f"sha256:{'f' * 64}",
    },
}
CASES = {
    "defaults": REQUIRED,
    "everything_else": {
        **REQUIRED,
        "render_system": "Ubuntu 24",
        "baseline_ssh_port": 65535,
        "baseline_public_tcp_ports": [80, 80, 8443],
        "baseline_host_tcp_ports": [1],
        "baseline_host_udp_ports": [51820, 51821],
        "baseline_container_interfaces": ["ctr-*", "virbr0"],
        "baseline_isolated_interfaces": [],
        "baseline_ssh_rate": 1,
        "baseline_ssh_burst": 1,
        "baseline_reboot_time": "",
        "stack_domain_aliases": ["localhost", "a-very-long-name.of-a-blog.example.net"],
        "stack_domain_redirects": ["www.example.org", "old.example.org"],
        "stack_base_url": "https://blog.example.org:8443",
        "stack_http_port": 8080,
        "stack_https_port": 8443,
        # A string, as from a command line.
        "stack_http3": "true",
        "tls_mode": "provided",
        "tls_hsts_seconds": 0,
        "stack_trusted_proxies": ["10.1.0.0/16", "192.0.2.1", "2001:db8:5::/48"],
        "stack_methods": ["GET", "HEAD", "POST", "DELETE"],
        "stack_max_body_kb": 512,
        "stack_rate_pages": 7,
        "stack_rate_writes": 2,
        "stack_rate_connections": 9,
        "stack_rate_exempt": ["198.51.100.0/24", "2001:db8:6::/48"],
        "stack_app_subnet": "172.31.255.16/28",
        "stack_app_subnet_ipv6": "fd00:1::/64",
        "stack_db_volume": "slipway_db",
        "stack_flask_blog_memory_mb": 200,
        "stack_cpus": 0.5,
        "stack_log_max_size": "1m",
        "stack_log_max_file": 7,
        "stack_security_contact": "https://example.org/report?a=$b",
        "stack_blog_environment": {
            "CSP_IMG_SRC": "'self' https://img.example.org",
            "PRICE": "$5",
            "COUNT": 3,
        },
    },
    "large_host": {
        **REQUIRED,
        "render_vcpus": 96,
        "render_memory_mb": 257700,
        "stack_cpus": 24,
        "backup_repository": "s3://s3.example.org/backups/blog",
        "backup_s3_key_id": "AKIAEXAMPLE",
        "backup_s3_path_style": "true",
        "stack_blog_environment": {"WEB_THREADS": 8},
    },
    # YAML reads a bare `off` as false.
    "plain_http": {
        **REQUIRED,
        "tls_mode": False,
        "stack_http3": True,
        "stack_domain_redirects": ["www.example.org"],
    },
    "awkward_words": {
        **REQUIRED,
        "render_system": "Debian 12",
        "baseline_public_tcp_ports": [],
        "baseline_reboot_time": "23:59",
        "backup_repository": "sftp://u1-sub2@192.0.2.9:23/blogs/a",
        "backup_sftp_host_keys": ["ssh-ed25519 AAAAC3Nza", "ecdsa-sha2-nistp256 AAAAE2VjZ="],
        "stack_site_language": "no",
        "stack_site_title": 'Anna\'s "blog": $HOME ${BLUE_IMAGE} $$ # {1: &a *b} \\n ünïcødé 🚢',
        "stack_site_description": "two\nlines, and a tab\t",
        "stack_site_author": "no",
    },
}
# The variables that compose.yml gets from slots.env.
SLOT_IMAGES = {"BLUE_IMAGE": "sha256:blue", "GREEN_IMAGE": "sha256:green", "TOOL_IMAGE": "sha256:tool"}
