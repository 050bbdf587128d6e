import { hasKey, keepKey } from "./key.js";

const $ = (id) => document.getElementById(id);

/** The page's form that asks for a key; `retry` is called once one was given. */
export function keyForm(retry) {
  $("unlock").addEventListener("submit", (event) => {
    event.preventDefault();
    keepKey($("key").value);
    $("key").value = "";
    retry();
  });
  return {
    ask() {
      $("unlock-text").textContent = hasKey() ? "The service does not know this key." : "The service asks for a key.";
      const asksAlready = !$("unlock").hidden;
      $("unlock").hidden = false;
      if (!asksAlready) $("key").focus();
    },
    hide() {
      $("unlock").hidden = true;
    },
  };
}
