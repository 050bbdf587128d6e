// How the colours of catalogs look as cloth; a name that is not here is tried as CSS.
const NAMED = {
  black: "#1c1b1a", white: "#fdfdfb", grey: "#8c8c8a", blue: "#2f62b5", red: "#c8322d", green: "#3f8a4d",
  "navy blue": "#1f2a52", brown: "#754c2e", purple: "#734a94", pink: "#ee9ab3", yellow: "#f3cf3f", orange: "#ea8131",
  maroon: "#6f1d28", beige: "#e0cfae", olive: "#75763a", silver: "#c5c8cb", gold: "#cfa43f", khaki: "#b5a47a",
  tan: "#c69c6d", cream: "#f6ecd2", "off white": "#f5f1e6", charcoal: "#3b3e42", "grey melange": "#a9a9ad",
  "coffee brown": "#4b3427", "mushroom brown": "#a08672", "turquoise blue": "#2fb7c6", teal: "#1f7d7c",
  "sea green": "#2e8b6f", "lime green": "#7ac943", "fluorescent green": "#52ff3a", rose: "#e08a9b", rust: "#a94b22",
  mustard: "#d6a01f", burgundy: "#6d1a2d", copper: "#b4713d", bronze: "#9a6b32", steel: "#8a949c", taupe: "#877a6d",
  mauve: "#b88fb3", nude: "#e5c3a6", skin: "#ecc7a4", peach: "#ffc09f", champagne: "#efdcb8",
};
const MANY = "conic-gradient(#e8694a, #f2b84b, #6fae5c, #3d8fb8, #8a62ad, #e8694a)";
const SHINE = "linear-gradient(135deg, #8d9297, #eceef0 50%, #8d9297)";

/** A CSS background for a colour's name, or "" where nobody knows what it looks like. */
export function paint(name) {
  const key = name.trim().toLowerCase();
  if (key === "multi" || key === "multicolour") return MANY;
  if (key === "metallic") return SHINE;
  const value = NAMED[key] ?? key.replaceAll(" ", "");
  return CSS.supports("color", value) ? value : "";
}
