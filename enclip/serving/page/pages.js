/** "/" leads into a search field, but where something is typed or chosen; whether it did. */
export function slashFocuses(event, field) {
  if (event.key !== "/" || event.target.matches("input:not([type=file]), select")) return false;
  event.preventDefault();
  field.focus();
  field.select();
  return true;
}

/** The other pages' links take along what is searched for here. */
export function carry(words) {
  const query = words ? `?${new URLSearchParams({ q: words })}` : "";
  for (const link of document.querySelectorAll("nav.pages a")) {
    const [page] = link.getAttribute("href").split("?");
    if (page === "./" || page === "compare") link.setAttribute("href", page + query);
  }
}
