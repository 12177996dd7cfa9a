// Plays the paths of optimizers: a button, a slider and the keyboard.
{
  const figure = document.querySelector(".picture");
  const controls = figure.querySelector(".controls");
  const button = controls.querySelector("button");
  const slider = controls.querySelector("input");
  const output = controls.querySelector("output");
  const last = Number(slider.max);
  const heads = figure.querySelectorAll(".head");
  const trails = [...figure.querySelectorAll(".trail")].map((group, place) => ({
    points: group.querySelector(".line").getAttribute("d").slice(1).split("L"),
    lines: group.querySelectorAll(".line, .halo"),
    dots: group.querySelector(".dots"),
    head: heads[place],
    cross: heads[place].querySelector(".cross"),
  }));
  function show(step) {
    for (const trail of trails) {
      const count = Math.min(step + 1, trail.points.length);
      const shown = trail.points.slice(0, count);
      const whole = count === trail.points.length;
      for (const line of trail.lines) line.setAttribute("d", "M" + shown.join("L"));
      if (trail.dots) trail.dots.setAttribute("d", shown.map(point => "M" + point + "h0").join(""));
      trail.head.setAttribute("transform", "translate(" + (whole ? trail.head.dataset.end : shown[count - 1]) + ")");
      trail.cross.classList.toggle("off", !(whole && trail.head.dataset.lost === "1"));
    }
    figure.classList.toggle("moving", step < last);
    slider.value = step;
    slider.setAttribute("aria-valuetext", "step " + step + " of " + last);
    output.textContent = step + " of " + last;
  }
  const duration = Math.min(12000, Math.max(4000, 60 * last));
  let playing = false, begun = 0;
  function pause() {
    playing = false;
    button.textContent = "Play";
  }
  function frame(now) {
    if (!playing) return;
    const step = Math.min(last, Math.floor((now - begun) / duration * last));
    show(step);
    if (step < last) requestAnimationFrame(frame);
    else pause();
  }
  button.addEventListener("click", () => {
    if (playing) return pause();
    const from = Number(slider.value) % last;
    playing = true;
    button.textContent = "Pause";
    begun = performance.now() - from / last * duration;
    requestAnimationFrame(frame);
  });
  slider.addEventListener("input", () => {
    pause();
    show(Number(slider.value));
  });
  controls.hidden = false;
}
