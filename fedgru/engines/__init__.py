"""Engines by name. Nothing is imported before an engine is made."""

ENGINES = {
    "jax": ("fedgru.engines.jax", "JaxEngine"),
    "reference": ("fedgru.engines.reference", "ReferenceEngine"),
    "tff": ("fedgru.engines.tff", "TffEngine"),
    "ray": ("fedgru.engines.ray", "RayEngine"),
}
