/** The other pages' links take along what is searched for here. */
export function carry(words) {
  const query = words ? `?${new URLSearchParams({ q: words })}` : "";
  for (const link of document.querySelectorAll("nav.pages a")) {
    const [page] = link.getAttribute("href").split("?");
    if (page === "./" || page === "compare") link.setAttribute("href", page + query);
  }
}
