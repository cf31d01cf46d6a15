from __future__ import annotations

from s3lustrefs.meta import associations
from s3lustrefs.model.association import Association, AssociationSettings, Policies


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
