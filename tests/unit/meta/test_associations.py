from __future__ import annotations

import hashlib
import json
from dataclasses import asdict

from s3lustrefs.meta import associations
from s3lustrefs.model.association import Association, AssociationSettings, Policies
from s3lustrefs.movers.configured_links import fingerprint


def test_policy_of_the_api_holds_until_its_configuration_changes() -> None:
    made = Association("/a", "bucket", "p/").with_settings(
        AssociationSettings("/a", "bucket", "p/", auto_export=frozenset({"NEW"}))
    )
    changed = made.with_policies(Policies(frozenset(), frozenset({"DELETED"}), 7))
    stored = associations.decode(associations.encode(changed))
    assert stored == changed
    same = stored.with_settings(AssociationSettings("/a", "bucket", "p/", auto_export=frozenset({"NEW"}), uid=5))
    assert (same.auto_import, same.auto_export, same.imported_file_chunk_size_mib, same.uid) == (set(), {"DELETED"}, 7, 5)
    news = same.with_settings(AssociationSettings("/a", "bucket", "p/", auto_export=frozenset({"CHANGED"})))
    assert (news.auto_import, news.auto_export) == (set(), {"CHANGED"})


def test_record_and_fingerprint_from_before_exports_had_a_prefix_of_their_own_still_count() -> None:
    settings = AssociationSettings("/a", "bucket", "p/")
    before = {key: value for key, value in asdict(settings).items() if key != "export_prefix"}
    digest = hashlib.sha256(json.dumps(before, default=sorted, sort_keys=True).encode()).hexdigest()[:32]
    assert fingerprint(settings) == digest != fingerprint(AssociationSettings("/a", "bucket", "p/", export_prefix="out/"))
    stored = json.loads(associations.encode(Association("/a", "bucket", "p/", assoc_id=3)))  # type: ignore[arg-type]
    del stored["export_prefix"]
    assert associations.decode(json.dumps(stored).encode()) == Association("/a", "bucket", "p/", assoc_id=3)  # type: ignore[arg-type]
    apart = Association("/a", "bucket", "p/", export_prefix="out/")
    assert associations.decode(associations.encode(apart)) == apart
    assert apart.with_defaults(AssociationSettings("", "", "")).export_prefix == "out/"
