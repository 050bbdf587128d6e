/** Fill a card's face: picture, name and what the product is; `more` is said behind it. */
export function fillFace(face, product, more = "") {
  const image = face.querySelector("img");
  image.alt = product.name;
  image.addEventListener("error", () => image.parentElement.classList.add("empty"));
  image.src = product.image.slice(1); // relative, so that the page works under a path of a proxy too
  face.querySelector(".name").textContent = product.name || product.product_id;
  face.querySelector(".traits").textContent = [product.article_type, product.colour, more].filter(Boolean).join(" · ");
  face.dataset.product = product.product_id;
  if ("score" in product) face.title = `score ${product.score.toFixed(3)} · cluster ${product.cluster}`;
}
