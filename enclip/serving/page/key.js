const NAME = "enclip-key";
let key = "";
try {
  key = sessionStorage.getItem(NAME) ?? "";
} catch {
  // A browser that keeps nothing for this page asks again after a reload.
}

/** Whether a key was given in this tab. */
export const hasKey = () => key !== "";

/** The headers that carry the key; none where none was given. */
export const keyHeaders = () => (key ? { "X-API-Key": key } : {});

/** Take a key for this tab: until it is closed, and for no other. */
export function keepKey(given) {
  key = given;
  try {
    sessionStorage.setItem(NAME, key);
  } catch {
    // As above.
  }
}
