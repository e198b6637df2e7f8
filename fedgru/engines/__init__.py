"""Engines by name. Nothing is imported before an engine is made."""

ENGINES = {
    "jax": ("fedgru.engines.jax.engine", "JaxEngine"),
    "reference": ("fedgru.engines.reference", "ReferenceEngine"),
    "tff": ("fedgru.engines.tff.engine", "TffEngine"),
    "ray": ("fedgru.engines.ray.engine", "RayEngine"),
}
