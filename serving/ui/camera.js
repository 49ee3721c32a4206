// The pictures of a camera of this device, as JPEG files, one when it is asked for.

// There is none, or it may not be used; the message is for people.
class NoCamera extends Error {
  title = "No camera";
}

const LONGER_SIDE = 640;
const QUALITY = .8;

const REASONS = {
  NotAllowedError: "This browser was not allowed to use the camera. Allow it beside the address of this page, and try again.",
  NotFoundError: "This device has no camera.",
  NotReadableError: "Another program is using the camera.",
};

export class Camera {
  #media;
  #video = document.createElement("video");

  // Fails with NoCamera. `ended` is called if the camera goes away by itself.
  static async open(ended) {
    if (!navigator.mediaDevices)
      throw new NoCamera("Browsers give cameras only to pages over https, and to those of this machine itself.");
    const camera = new Camera();
    try {
      camera.#media = await navigator.mediaDevices.getUserMedia({
        video: {width: {ideal: LONGER_SIDE}, facingMode: "environment"},
      });
    } catch (error) {
      throw new NoCamera(REASONS[error.name] ?? String(error));
    }
    for (const track of camera.#media.getTracks()) track.addEventListener("ended", ended);
    camera.#video.srcObject = camera.#media;
    camera.#video.muted = camera.#video.playsInline = true;
    await camera.#video.play();
    return camera;
  }

  // The present picture, as a canvas and as a file.
  async frame() {
    const {videoWidth, videoHeight} = this.#video;
    const scale = Math.min(1, LONGER_SIDE / Math.max(videoWidth, videoHeight));
    const picture = document.createElement("canvas");
    picture.width = Math.round(videoWidth * scale);
    picture.height = Math.round(videoHeight * scale);
    picture.getContext("2d").drawImage(this.#video, 0, 0, picture.width, picture.height);
    const file = await new Promise((resolve) => { picture.toBlob(resolve, "image/jpeg", QUALITY); });
    return {picture, file};
  }

  close() {
    for (const track of this.#media.getTracks()) track.stop();
  }
}
