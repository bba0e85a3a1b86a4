import json,os,glob,time,numpy as np,onnxruntime as ort,openvino as ov,librosa
from kokoro_onnx import Kokoro
def session(path):
    o=ort.SessionOptions(); o.intra_op_num_threads=o.inter_op_num_threads=1
    return ort.InferenceSession(path,o,providers=["CPUExecutionProvider"])
class Split:
    """Stands in for kokoro's session: front in ORT, generator in OpenVINO bf16, istft in numpy."""
    def __init__(s,full,dtype='bf16',width=32):
        s.width=width
        s.full=full; s.front=session('runs/front.onnx')
        c=ov.Core(); s.gen=c.compile_model('runs/gen.onnx','CPU',{'INFERENCE_NUM_THREADS':1,'INFERENCE_PRECISION_HINT':dtype,'CPU_RUNTIME_CACHE_CAPACITY':'100000','NUM_STREAMS':1})
    def get_inputs(s): return s.full.get_inputs()
    def get_outputs(s): return s.full.get_outputs()
    def get_providers(s): return s.full.get_providers()
    def __getattr__(s,k): return getattr(s.full,k)
    def run(s,_,inputs):
        t0=time.time()
        outs=s.front.run(None,inputs); t1=time.time()
        f,h,z=outs; n=f.shape[2]; m=-n%s.width
        if m and n>m+2:
            f=np.concatenate([f,f[:,:,-2:-2-m:-1]],2); h=np.concatenate([h,h[:,:,-2:-2-m*60:-1]],2)
        x=s.gen([f,h,z])[0][:,:,:n*60+1]; s.t=(t1-t0,time.time()-t1); s.shape=(f.shape,h.shape,x.shape)
        spec=np.exp(x[0,:11])*np.exp(1j*np.sin(x[0,11:]))
        return [librosa.istft(spec,hop_length=5,win_length=20,window='hann',center=True).astype(np.float32)]
def kokoro(teacher='runs/teacher',split=True):
    voices={os.path.basename(p)[:-4]:np.fromfile(p,np.float32).reshape(-1,1,256) for p in glob.glob(f"{teacher}/package/voices/*.bin")}
    if not os.path.exists(f"{teacher}/voices.npz"): np.savez(f"{teacher}/voices.npz",**voices)
    full=session(f"{teacher}/kokoro-v1.0.int8.onnx")
    return Kokoro.from_session(Split(full) if split else full,f"{teacher}/voices.npz"),voices
