from __future__ import annotations

import os
from pathlib import Path

import pytest

from s3lustrefs.config import Config, default_state_dir, load
from s3lustrefs.errors import ConfigError


def loaded(options: str = "", source: str = "s3://bucket/some/prefix") -> Config:
    return load(source, options, mountpoint="/mnt/x")


def from_toml(tmp_path: Path, text: str, options: str = "") -> Config:
    path = tmp_path / "mount.toml"
    path.write_text(text)
    return load(str(path), options, mountpoint="/mnt/x")


def dra(path: str, repository: str, more: str = "") -> str:
    return f'[[dra]]\nfile_system_path = "{path}"\ndata_repository_path = "{repository}"\n{more}\n'


# --- sources ---------------------------------------------------------------------------------------------------------------


def test_bucket_url_links_the_root_and_gets_a_trailing_slash() -> None:
    (only,) = loaded().dras
    assert (only.file_system_path, only.bucket, only.prefix) == ("/", "bucket", "some/prefix/")
    assert only.data_repository_path_given == "s3://bucket/some/prefix"
    assert only.auto_import == only.auto_export == {"NEW", "CHANGED", "DELETED"}


@pytest.mark.parametrize("source", ["s3://bucket", "s3://bucket/"])
def test_whole_bucket_has_an_empty_prefix(source: str) -> None:
    assert loaded(source=source).dras[0].prefix == ""


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("s3:///prefix", "names no bucket"),
        ("s3://b", "cannot be a bucket name"),
        ("s3://bu cket/x", "cannot be a bucket name"),
        ("gs://bucket/x", "only s3://"),
        ("nosuchname", "there is no /etc/s3lustrefs/nosuchname.toml"),
        ("", "there is no /etc/s3lustrefs/.toml"),
        ("/no/such/file.toml", "/no/such/file.toml: cannot be read: No such file or directory"),
    ],
)
def test_bad_source_is_one_clear_error(source: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        loaded(source=source)


def test_name_means_a_file_in_the_configuration_directory(tmp_path: Path) -> None:
    (tmp_path / "scratch.toml").write_text('state_dir = "/st"\n')
    config = load("scratch", "", mountpoint="/mnt/x", config_dir=tmp_path)
    assert (config.source, config.state_dir, config.dras) == ("scratch", Path("/st"), ())


# --- -o -------------------------------------------------------------------------------------------------------------------


def test_every_option_reaches_its_field() -> None:
    config = loaded(
        "state_dir=/st,cache_dir=/a:/b,cache_size=500GiB,endpoint_url=http://127.0.0.1:9000/,region=eu-central-1,profile=lab,"
        "role_arn=arn:aws:iam::1:role/x,addressing_style=path,allow_other,ro,uid=5,gid=6,file_mode=0640,dir_mode=750,"
        "imported_file_chunk_size=64,auto_import=new+changed,auto_export=none,import_interval=5m,export_open_after=10m,"
        "on_conflict=file-wins,posix_metadata=eager,event_queue_url=create,lost_found_age=7d,lost_found_size=1GiB"
    )
    assert (config.state_dir, config.cache_dirs, config.cache_bytes) == (Path("/st"), (Path("/a"), Path("/b")), 500 << 30)
    assert (config.allow_other, config.read_only) == (True, True)
    assert (config.lost_found_seconds, config.lost_found_bytes, config.dras[0].on_conflict) == (7 * 86400, 1 << 30, "file-wins")
    only = config.dras[0]
    endpoint = only.endpoint
    assert (endpoint.endpoint_url, endpoint.region, endpoint.profile) == ("http://127.0.0.1:9000", "eu-central-1", "lab")
    assert (endpoint.role_arn, endpoint.addressing_style) == ("arn:aws:iam::1:role/x", "path")
    assert (only.uid, only.gid, only.file_mode, only.dir_mode) == (5, 6, 0o640, 0o750)
    assert (only.imported_file_chunk_size_mib, only.import_interval_seconds, only.posix_metadata) == (64, 300.0, "eager")
    assert (only.auto_import, only.auto_export) == ({"NEW", "CHANGED"}, frozenset())
    assert only.event_queue_url == "create"
    assert only.export_open_after_seconds == 600.0


def test_standard_mount_options_are_accepted_and_the_kernels_are_handed_on() -> None:
    config = loaded(
        "rw,noauto,user,users,_netdev,nofail,defaults,auto,relatime,async,x-systemd.automount,X-mount.mkdir,comment=hello,"
        "dev,nosuid,noexec,sync,dirsync,noatime"
    )
    assert config.kernel_options == ("dev", "nosuid", "noexec", "sync", "dirsync", "noatime")
    assert (config.read_only, config.noatime) == (False, True)


def test_last_of_ro_and_rw_wins() -> None:
    assert not loaded("ro,rw").read_only
    assert loaded("rw,ro").read_only


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("cach_size=5GiB", "unknown mount option 'cach_size'; did you mean 'cache_size'"),
        ("regoin=x", "did you mean 'region'"),
        ("context=foo", "unknown mount option 'context'"),
        ("remount", "remount: not possible"),
        ("cache_size=5Gb!", "cache_size=5Gb!: is not a size; write for example 500GiB"),
        ("cache_size=-5GiB", "is not a size"),
        ("cache_size=10", "too small"),
        ("cache_size", "cache_size: needs a value"),
        ("state_dir=", "is empty"),
        ("file_mode=rw-r--r--", "file_mode=rw-r--r--: is not an octal mode"),
        ("file_mode=0999", "is not an octal mode"),
        ("dir_mode=4755", "is not an octal mode of at most 0777"),
        ("uid=alice", "uid=alice: is not a numeric id"),
        ("uid=-1", "is not a numeric id"),
        ("imported_file_chunk_size=0", "from 1 to 512000"),
        ("imported_file_chunk_size=512001", "from 1 to 512000"),
        ("auto_import=new+renamed", "auto_import=new.renamed: must be new, changed, deleted"),
        ("import_interval=soon", "is not a length of time"),
        ("export_open_after=-1", "is not a length of time"),
        ("endpoint_url=localhost:9000", "is not a URL; write for example https://"),
        ("endpoint_url=http://host:99999", "is not a URL"),
        ("addressing_style=dns", "must be one of auto, path, virtual"),
        ("event_queue_url=make", "must be auto, create, off, or the URL of an SQS queue"),
        ("posix_metadata=maybe", "must be one of lazy, eager, off"),
        ("lost_found_age=soon", "is not a length of time"),
        ("lost_found_size=many", "is not a size"),
        ("on_conflict=newest", "must be one of keep-both, bucket-wins, file-wins"),
        ("allow_other=perhaps", "is neither true nor false"),
        ("api_listen=8987", "is not HOST:PORT; write for example 127.0.0.1:8987"),
        ("api_listen=host:0", "is not HOST:PORT"),
        ("api_listen=0.0.0.0:8987", "is not a loopback address: others could read along without api_certificate=FILE"),
        ("api_certificate=/tls/api.pem", "means nothing without api_listen"),
        ("api_listen=127.0.0.1:8987,api_key=/tls/key.pem", "means nothing without api_certificate"),
        ("api_listen=example.org:8987", "is not a loopback address"),
        ("cache_dir=/a:/a", "different directories"),
    ],
)
def test_bad_option_is_one_clear_error(option: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        loaded(option)


def test_api_is_served_to_others_only_with_a_certificate() -> None:
    config = loaded("api_listen=0.0.0.0:8987,api_certificate=/tls/api.pem,api_key=/tls/key.pem")
    assert (config.api_listen, config.api_certificate, config.api_key) == (
        "0.0.0.0:8987",
        Path("/tls/api.pem"),
        Path("/tls/key.pem"),
    )
    for address in ("127.0.0.1:8987", "[::1]:8987", "localhost:8987", "127.8.0.1:1"):
        assert loaded(f"api_listen={address}").api_listen == address


@pytest.mark.parametrize(
    ("text", "size"),
    [("1MiB", 1 << 20), ("2G", 2 << 30), ("2GB", 2 * 10**9), ("1.5GiB", 3 << 29), ("1048576", 1 << 20), ("3 tib", 3 << 40)],
)
def test_sizes(text: str, size: int) -> None:
    assert loaded(f"cache_size={text}").cache_bytes == size


# --- TOML ------------------------------------------------------------------------------------------------------------------


def test_file_of_the_design_is_read(tmp_path: Path) -> None:
    config = from_toml(
        tmp_path,
        'state_dir = "/var/lib/s3lustrefs/x"\ncache_dir = ["/nvme0/s", "/nvme1/s"]\ncache_size = "500GiB"\nfile_mode = 0o640\n'
        + dra("/reference", "s3://genomes/hg38/", 'auto_import = ["new", "changed", "deleted"]')
        + dra("/results/", "s3://lab-results/run-17", 'auto_export = []\nprofile = "lab"\nfile_mode = "0600"'),
    )
    assert config.cache_dirs == (Path("/nvme0/s"), Path("/nvme1/s"))
    reference, results = config.dras
    assert (reference.file_system_path, reference.prefix, reference.endpoint.profile) == ("/reference", "hg38/", None)
    assert (results.file_system_path, results.file_system_path_given) == ("/results", "/results/")
    assert (results.prefix, results.auto_export, results.endpoint.profile) == ("run-17/", frozenset(), "lab")
    assert (reference.file_mode, results.file_mode) == (0o640, 0o600)


def test_command_line_beats_the_file_and_an_association_beats_the_top(tmp_path: Path) -> None:
    text = 'region = "top"\nro = true\n' + dra("/a", "s3://buck1") + dra("/b", "s3://buck2", 'region = "own"')
    assert [each.endpoint.region for each in from_toml(tmp_path, text).dras] == ["top", "own"]
    assert [each.endpoint.region for each in from_toml(tmp_path, text, "region=cli").dras] == ["cli", "cli"]
    # mount(8) always passes rw when nothing else was asked for.
    assert from_toml(tmp_path, text, "rw").read_only


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("state_dir = \n", r"mount\.toml: not valid TOML: .*line 1, column"),
        ('a = "x"\n[[dra]\n', "not valid TOML: .*line 2"),
        ('\ncash_dir = "/x"\n', r"mount\.toml, line 2: cash_dir: unknown key 'cash_dir'; did you mean 'cache_dir'"),
        ('cache_size = "5Q"\n', "line 1: cache_size = '5Q': is not a size"),
        ("file_mode = 644\n", "line 1: file_mode = 644: is not an octal mode"),
        ("region = true\n", "line 1: region = True: needs a value"),
        ('state_dir = "var/x"\n', "line 1: state_dir: 'var/x' is not an absolute path"),
        ("dra = 3\n", "associations are written as"),
        ('[[dra]]\nfile_system_path = "/x"\n', "number 1 has no data_repository_path"),
        (dra("/a", "s3://buck1") + dra("/b", "s3://buck2", "uid = -3"), "line 8: uid = -3: is not a numeric id"),
        (dra("/a", "s3://buck1", 'state_dir = "/x"'), "line 4: state_dir: unknown key"),
        (dra("a", "s3://buck1"), "'a' is not absolute"),
        (dra("/a/../b", "s3://buck1"), "'..' component"),
        (dra("/a", "https://buck1"), "is not of the form s3://"),
    ],
)
def test_bad_file_is_one_clear_error_with_its_place(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        from_toml(tmp_path, text)


def test_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mount.toml").write_bytes(b'state_dir = "\xff"\n')
    with pytest.raises(ConfigError, match="not UTF-8 at byte 13"):
        load(str(tmp_path / "mount.toml"), "", mountpoint="/mnt/x")


# --- association rules -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (("/ns1", "s3://buck1/a"), ("/ns1", "s3://buck2/b"), "one directory contains the other"),
        (("/ns1", "s3://buck1/a"), ("/ns1/ns2/", "s3://buck2/b"), "one directory contains the other"),
        (("/ns1/ns2", "s3://buck1/a"), ("/ns1", "s3://buck2/b"), "one directory contains the other"),
        (("/", "s3://buck1/a"), ("/x", "s3://buck2/b"), "'/' can only be linked alone"),
        (("/x", "s3://buck1/a"), ("/", "s3://buck2/b"), "'/' can only be linked alone"),
        (("/x", "s3://buck1/p"), ("/y", "s3://buck1/p/"), "one prefix contains the other"),
        (("/x", "s3://buck1/p/"), ("/y", "s3://buck1/p/q"), "one prefix contains the other"),
        (("/x", "s3://buck1"), ("/y", "s3://buck1/q"), "one prefix contains the other"),
    ],
)
def test_overlap_is_refused_naming_both_sides(tmp_path: Path, first: tuple[str, str], second: tuple[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        from_toml(tmp_path, dra(*first) + dra(*second))
    for _, repository in (first, second):
        assert repository.rstrip("/") in str(caught.value)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("/ns1", "s3://buck1/a"), ("/ns12", "s3://buck1/ab")),
        (("/a/x", "s3://buck1/p/q"), ("/a/y", "s3://buck1/p/r")),
        (("/a", "s3://buck1"), ("/b", "s3://buck2")),
    ],
)
def test_neighbours_are_accepted(tmp_path: Path, first: tuple[str, str], second: tuple[str, str]) -> None:
    assert len(from_toml(tmp_path, dra(*first) + dra(*second)).dras) == 2


def test_exports_may_have_a_prefix_of_their_own(tmp_path: Path) -> None:
    (only,) = from_toml(tmp_path, dra("/", "s3://bucket/in", 'export_repository_path = "s3://bucket/out"')).dras
    assert (only.prefix, only.export_prefix, only.write_prefix) == ("in/", "out/", "out/")
    (only,) = from_toml(tmp_path, dra("/", "s3://bucket/in", 'export_repository_path = "s3://bucket/in/"')).dras
    assert (only.prefix, only.export_prefix, only.write_prefix) == ("in/", "", "in/")
    for export, words in (("s3://other/out", "must be in the bucket"), ("s3://bucket", "contains what is imported")):
        with pytest.raises(ConfigError, match=f"export_repository_path: .*{words}"):
            from_toml(tmp_path, dra("/", "s3://bucket/in", f'export_repository_path = "{export}"'))


def test_prefix_to_export_to_is_nobody_elses(tmp_path: Path) -> None:
    apart = 'export_repository_path = "s3://bucket/out"'
    for other, more in (("s3://bucket/out/x", ""), ("s3://bucket", ""), ("s3://bucket/b", apart)):
        with pytest.raises(ConfigError, match="one prefix contains the other"):
            from_toml(tmp_path, dra("/a", "s3://bucket/a", apart) + dra("/b", other, more))
    assert len(from_toml(tmp_path, dra("/a", "s3://bucket/a", apart) + dra("/b", "s3://bucket/b")).dras) == 2


def test_one_bucket_name_on_two_endpoints_is_two_buckets(tmp_path: Path) -> None:
    text = dra("/a", "s3://buck1", 'endpoint_url = "http://one:1"') + dra("/b", "s3://buck1", 'endpoint_url = "http://two:2"')
    assert len(from_toml(tmp_path, text).dras) == 2


def test_eight_associations_are_the_most(tmp_path: Path) -> None:
    eight = "".join(dra(f"/d{number}", f"s3://bucket/p{number}") for number in range(8))
    assert len(from_toml(tmp_path, eight).dras) == 8
    with pytest.raises(ConfigError, match=r"association /d8 \(s3://bucket/p8/\): a file system has at most 8"):
        from_toml(tmp_path, eight + dra("/d8", "s3://bucket/p8"))


# --- defaults ---------------------------------------------------------------------------------------------------------------


def test_state_directory_is_the_same_for_the_same_mount_and_another_for_another() -> None:
    same = loaded(source="s3://bucket/p").state_dir
    assert same == loaded(source="s3://bucket/p/").state_dir
    assert same != loaded(source="s3://bucket/q").state_dir
    assert same != load("s3://bucket/p", "", mountpoint="/mnt/y").state_dir


def test_content_is_kept_below_the_state_directory_unless_told() -> None:
    assert loaded("state_dir=/st").cache_dirs == (Path("/st/data"),)


@pytest.mark.skipif(os.geteuid() != 0, reason="the place differs for others")
def test_state_directory_of_root_is_in_var_lib() -> None:
    assert str(default_state_dir("s3://bucket/a/b", "/mnt/x")).startswith("/var/lib/s3lustrefs/bucket-a-b-")


def test_what_the_api_makes_gets_the_endpoint_of_the_mount_and_the_policies_of_fsx(tmp_path: Path) -> None:
    text = 'region = "top"\nposix_metadata = "off"\nauto_export = ["new"]\nimported_file_chunk_size = 7\nimport_interval = 5\n'
    defaults = from_toml(tmp_path, text).defaults
    assert (defaults.endpoint.region, defaults.posix_metadata, defaults.import_interval_seconds) == ("top", "off", 5.0)
    assert (defaults.auto_import, defaults.auto_export, defaults.imported_file_chunk_size_mib) == (frozenset(), frozenset(), 1024)
    options = load("s3://bucket", "endpoint_url=http://127.0.0.1:9000,profile=lab", mountpoint="/mnt").defaults
    assert (options.endpoint.endpoint_url, options.endpoint.profile) == ("http://127.0.0.1:9000", "lab")
