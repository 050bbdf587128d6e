// The form that asks for the service's key, the same on every page that asks the service.
import { hasKey, keepKey } from "./key.js";

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
document.getElementById("notice").before(form);
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

/** What to do once a key was given. */
export function whenUnlocked(again) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    keepKey(field.value);
    field.value = "";
    again();
  });
}
