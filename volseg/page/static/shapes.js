/* What a brush or an outline covers of a slice, by the rules of the server (volseg/session/shapes.py), so that
   what appears under the pointer is what will be there. Points are [h, v] in voxels, centres at whole numbers. */

/* Calls put(h, v) for each voxel whose centre lies within the radius of the line between two points. */
export function alongLine(width, height, [h0, v0], [h1, v1], radius, [stepH, stepV], put) {
  const reachH = Math.ceil(radius / stepH) + 1, reachV = Math.ceil(radius / stepV) + 1;
  const [lowH, lowV] = [Math.max(Math.floor(Math.min(h0, h1)) - reachH, 0), Math.max(Math.floor(Math.min(v0, v1)) - reachV, 0)];
  const highH = Math.min(Math.ceil(Math.max(h0, h1)) + reachH + 1, width);
  const highV = Math.min(Math.ceil(Math.max(v0, v1)) + reachV + 1, height);
  const dh = (h1 - h0) * stepH, dv = (v1 - v0) * stepV, length = dh * dh + dv * dv, most = radius * radius * (1 + 1e-9);
  for (let v = lowV; v < highV; v++)
    for (let h = lowH; h < highH; h++) {
      const a = (h - h0) * stepH, b = (v - v0) * stepV;
      const share = length ? Math.max(0, Math.min(1, (a * dh + b * dv) / length)) : 0;
      const p = a - share * dh, q = b - share * dv;
      if (p * p + q * q <= most) put(h, v);
    }
  for (const [h, v] of [[h0, v0], [h1, v1]]) {
    const [i, j] = [nearest(h), nearest(v)];
    if (i >= 0 && i < width && j >= 0 && j < height) put(i, j);
  }
}

export const nearest = (value) => {
  const low = Math.floor(value), rest = value - low;
  return rest < 0.5 || (rest === 0.5 && low % 2 === 0) ? low : low + 1;
};

/* Calls put(h, v) for each voxel whose centre lies within a closed outline, and for those of its corners. */
export function within(width, height, points, put) {
  const lowV = Math.max(0, Math.floor(Math.min(...points.map((p) => p[1]))));
  const highV = Math.min(height - 1, Math.ceil(Math.max(...points.map((p) => p[1]))));
  for (let v = lowV; v <= highV; v++) {
    const crossings = [];
    points.forEach(([h0, v0], i) => {
      const [h1, v1] = points[(i + 1) % points.length];
      if (v0 <= v !== v1 <= v) crossings.push(h0 + ((v - v0) / (v1 - v0)) * (h1 - h0));
    });
    crossings.sort((a, b) => a - b);
    for (let i = 0; i + 1 < crossings.length; i += 2)
      for (let h = Math.max(0, Math.ceil(crossings[i])); h < width && h <= crossings[i + 1]; h++) put(h, v);
  }
  for (const [h, v] of points) {
    const [i, j] = [nearest(h), nearest(v)];
    if (i >= 0 && i < width && j >= 0 && j < height) put(i, j);
  }
}
