/** Where a product's picture is; relative, so that the page works under a path of a proxy too. */
export const imageOf = (productId) => `v1/products/${encodeURIComponent(productId)}/image`;

/** Fill a card's face: picture, name and what the product is; `more` is said behind it. */
export function fillFace(face, product, more = "") {
  const image = face.querySelector("img");
  image.alt = product.name;
  image.addEventListener("error", () => image.parentElement.classList.add("empty"));
  image.src = imageOf(product.product_id);
  face.querySelector(".name").textContent = product.name || product.product_id;
  const traits = [product.article_type, product.colour, more].filter(Boolean).join(" · ");
  face.querySelector(".traits").replaceChildren(...priceTag(product, traits), traits);
  face.dataset.product = product.product_id;
  if ("score" in product) face.title = `score ${figure(product.score)} · cluster ${product.cluster}`;
}

function priceTag({ price }, traits) {
  if (typeof price !== "number") return [];
  const tag = document.createElement("b");
  tag.textContent = money(price);
  return traits ? [tag, " · "] : [tag];
}

/** A score or a cosine; calibrated ones are often below zero. */
export const figure = (value) => value.toFixed(3).replace("-", "−");

/** The catalog knows no currency, so a price is a number with as many decimals as it needs: none or two. */
export function money(price) {
  const decimals = Number.isInteger(price) ? 0 : 2;
  return price.toLocaleString(undefined, { minimumFractionDigits: decimals, maximumFractionDigits: decimals });
}
