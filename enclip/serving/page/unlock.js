// What stands in the way of an answer, the same on every page: the service's problem, or the key that it asks for.
import { hasKey, keepKey } from "./key.js";

const $ = (id) => document.getElementById(id);
const SOON_MS = 2000;
const form = document.createElement("form");
form.className = "notice";
form.id = "unlock";
form.autocomplete = "off";
form.hidden = true;
form.innerHTML = `
  <label for="key" id="unlock-text"></label>
  <input id="key" type="password" required minlength="16" pattern="[!-~]+" title="letters, digits and signs, without spaces" aria-describedby="unlock-note">
  <button class="go" type="submit">Unlock</button>
  <small id="unlock-note">Kept until this tab is closed, and sent to this service alone.</small>`;
$("notice").before(form);
const field = form.querySelector("input");

/** Show the form; who goes on typing a search is not torn away from it. */
export function askForKey() {
  form.querySelector("label").textContent = hasKey() ? "The service does not know this key." : "The service asks for a key.";
  const asksAlready = !form.hidden;
  form.hidden = false;
  if (!asksAlready) field.focus();
}

/** The service has answered, or its problem is another one. */
export function stopAsking() {
  form.hidden = true;
}

/**
 * Say what went wrong, or ask for the key where that is what is wanted.
 * What passes by itself, as while a service starts, is tried `again` soon. Returns the timer of that, else undefined.
 */
export function showProblem(error, again) {
  $("notice-text").textContent = error.message;
  $("notice").hidden = Boolean(error.locked);
  if (error.locked) askForKey();
  else stopAsking();
  return error.passing ? setTimeout(again, SOON_MS) : undefined;
}

/** What to do once a key was given. */
export function whenUnlocked(again) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    keepKey(field.value);
    field.value = "";
    again();
  });
}
