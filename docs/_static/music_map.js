// What scrolls sideways can be reached by keyboard.
function reach() {
  for (const node of document.querySelectorAll(".table-wrapper, .formula, pre")) {
    if (node.scrollWidth > node.clientWidth) node.tabIndex = 0;
    else node.removeAttribute("tabindex");
  }
}
addEventListener("load", reach);
addEventListener("resize", reach);
