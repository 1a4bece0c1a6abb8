"""A licence as the hub's cards name it.

The hub knows a list of identifiers; any other licence is `other` with a name of its own in `license_name`.
Source: https://huggingface.co/docs/hub/repositories-licenses
"""

from __future__ import annotations

import re

NOT_STATED = "not-stated"  # the name of the licence where a base model's source says nothing

_IDENTIFIERS = """
apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5
cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0
cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl
lgpl-2.1 lgpl-3.0 isc lppl-1.3c ms-pl mpl-2.0 odc-by odbl openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib
pddl lgpl-lr deepfloyd-if-license gemma
"""
KNOWN = frozenset(_IDENTIFIERS.split())


def front_matter(licence: str | None, id: str | None = None) -> dict[str, str]:
    """The keys license and, where the hub does not know it, license_name and license_link, for a card.

    `licence` is what the base model's source says, None where it says nothing; `id` is the base model's on the hub.
    """
    if licence in KNOWN:
        return {"license": licence}
    name = re.sub(r"[^a-z0-9.-]+", "-", (licence or "").lower()).strip("-.")
    link = {"license_link": f"https://huggingface.co/{id}"} if id else {}
    return {"license": "other", "license_name": name or NOT_STATED, **link}
